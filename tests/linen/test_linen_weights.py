"""The wrappers of layers, beside those of `flax.linen`."""

import functools
import itertools

import chex
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.drawing import place
from support.refusals import refused
from support.tiers import diagonal, in_full, matrix

from jaxnorm.linen import BatchNorm
from jaxnorm.linen.spectral_norm import SpectralNorm
from jaxnorm.linen.weight_norm import WeightNorm
from jaxnorm.linen.weight_standardization import WeightStandardization
from jaxnorm.tools import insert_variables
from jaxnorm.weight.spectral_norm import spectral_norm
from jaxnorm.weight.standardize_weight import standardize_weight

KEY = jax.random.key(0)


# Flax's classes raise under strict dtype promotion in half precision.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def x(rng):
    return place(rng.normal(size=(8, 4, 4, 3)) * 2 + 1)


def wave(key, shape, dtype=jnp.float32):
    """Initial values that need no random numbers, which take long to compile."""
    del key
    values = np.cos(1 + np.arange(np.prod(shape))).reshape(shape)
    return place(values, dtype)


WAVES = {"kernel_init": wave, "bias_init": wave}


class Block(nn.Module):
    """Two layers to be wrapped as one."""

    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        kinds = {"param_dtype": self.param_dtype, **WAVES}
        return nn.Dense(2, **kinds)(jnp.tanh(nn.Dense(5, **kinds)(x)))


class Model(nn.Module):
    """Wrapped layers with names that Flax gives them, between others."""

    wrapper: type[nn.Module]
    options: dict
    dtype: jnp.dtype = jnp.float32
    block_alone: bool = False

    @nn.compact
    def __call__(self, x, **call):
        if self.block_alone:
            block = self.wrapper(Block(self.dtype), **self.options)
            return block(x.mean((1, 2)), **call)
        kinds = {"param_dtype": self.dtype, **WAVES}

        def wrap(layer):
            return self.wrapper(layer, **self.options)

        x = jnp.tanh(wrap(nn.Conv(4, (3, 3), **kinds))(x, **call))
        x = wrap(nn.DenseGeneral((3, 2), **kinds))(x, **call)
        x = x.reshape(*x.shape[:-2], -1).mean((1, 2))
        return wrap(Block(self.dtype))(x, **call)


def initialize(model, x, **call):
    """Output and variables, from one compiled program."""
    return jax.jit(lambda key, x: model.init_with_output(key, x, **call))(KEY, x)


def shapes(model, x, **call):
    return jax.eval_shape(functools.partial(model.init, **call), KEY, x)


def drawn(model, x, **call):
    """Variables, where it does not matter how they start."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: place(rng.normal(size=leaf.shape), leaf.dtype),
        shapes(model, x, **call),
    )


def apply(model, mutable=("batch_stats",), **call):
    return jax.jit(functools.partial(model.apply, mutable=list(mutable), **call))


def run_steps(model, variables, x, **call):
    """A step with gradients, and another one with the statistics of the first."""

    def step(params, x, stats):
        variables = {"params": params, "batch_stats": stats}
        y, updates = model.apply(variables, x, mutable=["batch_stats"], **call)
        return jnp.sum(jnp.sin(y)), (y, updates.get("batch_stats", {}))

    params, stats = variables["params"], variables.get("batch_stats", {})
    gradient = jax.grad(step, (0, 1), has_aux=True)
    gradients, (y, new) = gradient(params, x, stats)
    return gradients, y, new, step(params, x, new)[1] if stats else None


def run_weight_norms(options, x, dtype=jnp.float32, block_alone=False):
    """Initialization and a step of our class and of Flax's, in one program."""

    def run(cls, x):
        model = Model(cls, options, dtype, block_alone)
        initial, variables = model.init_with_output(KEY, x)
        return initial, variables, run_steps(model, variables, x)

    return jax.jit(lambda x: [run(cls, x) for cls in (WeightNorm, nn.WeightNorm)])(x)


WEIGHT_NORM_OPTIONS = {
    "defaults": {},
    "epsilon": {"epsilon": 0.1},
    "bfloat16 result": {"dtype": jnp.bfloat16},
    "bfloat16 scale": {"param_dtype": jnp.bfloat16},
    "no scale": {"use_scale": False},
    "scale_init": {"scale_init": nn.initializers.normal()},
    "first axis": {"feature_axes": 0},
    "one norm": {"feature_axes": None},
    "all parameters": {"variable_filter": None},
    "some parameters": {"variable_filter": {"Dense_1", "Conv"}},
}
SPECTRAL_NORM_OPTIONS = {
    "defaults": {},
    "three steps": {"n_steps": 3},
    "no step": {"n_steps": 0},
    "epsilon": {"epsilon": 1e-7},  # ours is relative to the kernel
    "bfloat16 result": {"dtype": jnp.bfloat16},
    "collection": {"collection_name": "spectral"},
}


# What has to do with the layers, of which these take all; the others take the block.
WHOLE = {"defaults", "one norm", "first axis", "all parameters", "some parameters"}


def check_same(ours, flax, half):
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, flax)
    tolerance = 3e-2 if half else 2e-5
    chex.assert_trees_all_close(ours, flax, rtol=tolerance, atol=tolerance)


# What makes their code take another way; the others change a number.
@pytest.mark.parametrize(
    "name",
    matrix(WEIGHT_NORM_OPTIONS, often=("defaults", "bfloat16 scale")),
)
def test_weight_norm_has_the_tree_and_values_of_flax(name, x):
    options = WEIGHT_NORM_OPTIONS[name]
    ours, flax = run_weight_norms(options, x, block_alone=name not in WHOLE)
    check_same(ours, flax, jnp.bfloat16 in options.values())


@pytest.mark.full
@pytest.mark.parametrize("options", [{}, {"param_dtype": jnp.bfloat16}], ids=str)
def test_weight_norm_of_bfloat16_parameters(options, x):
    ours, flax = run_weight_norms(options, x, jnp.bfloat16)
    check_same(ours, flax, half=True)


# Often of the block; test_checkpoints_load_either_way has all layers.
@pytest.mark.parametrize(
    ("name", "update_stats"),
    matrix(
        [("defaults", False), *((name, True) for name in SPECTRAL_NORM_OPTIONS)],
        often=[("three steps", True), ("collection", True)],
    ),
)
def test_spectral_norm_has_the_tree_and_values_of_flax(name, update_stats, x):
    call, options = {"update_stats": update_stats}, SPECTRAL_NORM_OPTIONS[name]
    models = [
        Model(cls, options, block_alone=name not in WHOLE)
        for cls in (SpectralNorm, nn.SpectralNorm)
    ]
    chex.assert_trees_all_equal_shapes_and_dtypes(
        *(shapes(model, x, **call) for model in models)
    )
    variables = drawn(models[0], x, **call)
    if "collection_name" in options:  # another is not passed in `run_steps`
        assert set(variables) == {"params", "spectral"}
        ours, flax = (apply(m, ["spectral"], **call)(variables, x) for m in models)
    else:
        ours, flax = jax.jit(
            lambda variables, x: [run_steps(m, variables, x, **call) for m in models]
        )(variables, x)
    check_same(ours, flax, jnp.bfloat16 in options.values())


@pytest.mark.parametrize("ours, flax, options, call", [
    (WeightNorm, nn.WeightNorm, {"scale_init": nn.initializers.normal()}, {}),
    (SpectralNorm, nn.SpectralNorm, {}, {"update_stats": True}),
])  # fmt: skip
def test_variables_are_drawn_with_the_keys_of_flax(ours, flax, options, call, x):
    class Model(nn.Module):
        cls: type[nn.Module]

        @nn.compact
        def __call__(self, x):
            return self.cls(nn.Dense(4), **options)(nn.Dense(4)(x), **call)

    key = jax.random.key(0, impl="unsafe_rbg")  # which is quick to compile
    own, expected = jax.jit(
        lambda key, x: [Model(cls).init_with_output(key, x) for cls in (ours, flax)]
    )(key, x)
    check_same(own, expected, half=False)


def test_names_of_variables(x):
    variables = shapes(Model(WeightNorm, {}), x)
    assert set(variables["params"]["WeightNorm_0"]) == {"Conv_0/kernel/scale"}
    assert set(variables["params"]["WeightNorm_2"]) == {
        "Block_0/Dense_0/kernel/scale",
        "Block_0/Dense_1/kernel/scale",
    }
    variables = shapes(Model(SpectralNorm, {}), x, update_stats=True)
    assert set(variables["batch_stats"]["SpectralNorm_1"]) == {
        "DenseGeneral_0/kernel/u",
        "DenseGeneral_0/kernel/sigma",
        "DenseGeneral_0/bias/u",  # a matrix, too: (3, 2)
        "DenseGeneral_0/bias/sigma",
    }
    options = {"use_gain": True}
    variables = shapes(Model(WeightStandardization, options), x)
    gains = variables["params"]["WeightStandardization_0"]
    assert set(gains) == {"Conv_0/kernel/gain"}


@pytest.mark.parametrize("ours, flax, call", [
    in_full((WeightNorm, nn.WeightNorm, {})),
    (SpectralNorm, nn.SpectralNorm, {"update_stats": False}),
])  # fmt: skip
def test_checkpoints_load_either_way(ours, flax, call, x):
    models = [Model(cls, {}) for cls in (ours, flax)]
    run = jax.jit(lambda v, x: [model.apply(v, x, **call) for model in models])
    for source in models:
        outputs = run(drawn(source, x, **call), x)
        np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


# ---- how the scale of weight norm starts


BARE = {
    "Conv": lambda: nn.Conv(4, (3, 3), kernel_init=wave),
    "DenseGeneral": lambda: nn.DenseGeneral((3, 2), kernel_init=wave),
    "Block": Block,
}


@pytest.mark.parametrize(
    "layer, feature_axes",
    matrix(itertools.product(BARE, (-1, 0, None)), diagonal(BARE, (-1, 0, None))),
)
def test_preserve_computes_what_the_bare_layer_does(layer, feature_axes, x):
    class Bare(nn.Module):
        wrap: bool
        options: dict

        @nn.compact
        def __call__(self, x):
            inner = BARE[layer]()
            return (WeightNorm(inner, **self.options) if self.wrap else inner)(x)

    options = {"feature_axes": feature_axes}
    preserve = Bare(True, options | {"initialization": "preserve"})

    @jax.jit
    def run(key, x):
        models = Bare(False, options), preserve, Bare(True, options)
        initial = [model.init_with_output(key, x) for model in models]
        return *initial, preserve.apply(initial[1][1], x)

    (bare, parameters), (wrapped, variables), (changed, _), again = run(KEY, x)
    np.testing.assert_allclose(wrapped, bare, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(again, bare, rtol=1e-4, atol=1e-5)
    scales = variables["params"].pop("WeightNorm_0")
    chex.assert_trees_all_close(variables, parameters, rtol=1e-5)
    assert not any(np.allclose(scale, 1, atol=0.05) for scale in scales.values())
    assert not np.allclose(changed, bare, rtol=0.05)


class Stack(nn.Module):
    """Two wrapped layers, whose outputs before the activation it returns."""

    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        kinds = {"use_bias": self.use_bias, "kernel_init": wave, "bias_init": wave}
        first = WeightNorm(nn.Conv(4, (3, 3), **kinds), initialization="data")(x)
        second = WeightNorm(nn.Dense(5, **kinds), initialization="data")
        return first, second(nn.relu(first))


@pytest.mark.parametrize("use_bias", [True, False])
def test_one_pass_initializes_all_layers_from_data(use_bias, x):
    model = Stack(use_bias)
    outputs, variables = initialize(model, x)
    again = jax.jit(model.apply)(variables, x)
    chex.assert_trees_all_close(outputs, again, atol=1e-5)
    for y in map(np.asarray, outputs):
        np.testing.assert_allclose(y.std((0, 1, 2)), 1, rtol=1e-4)
        if use_bias:
            np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    # The stored kernel is the normalized one, as in Flax.
    params = variables["params"]
    kernel = np.asarray(params["Conv_0"]["kernel"], np.float64)
    np.testing.assert_allclose(
        np.sqrt(np.sum(kernel**2, (0, 1, 2))),
        params["WeightNorm_0"]["Conv_0/kernel/scale"],
        rtol=1e-5,
    )


def test_data_dependent_initialization_over_two_axes_of_units(x):
    layer = WeightNorm(
        nn.DenseGeneral((3, 2), **WAVES), feature_axes=(-2, -1), initialization="data"
    )
    y, variables = initialize(layer, x)
    y = np.asarray(y)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, rtol=1e-4)
    assert variables["params"]["layer_instance/kernel/scale"].shape == (3, 2)


def test_masked_data_do_not_count(x):
    """Whatever the layer makes of them; later the mask may stay where it is."""
    mask = np.arange(x.shape[0]).reshape(-1, 1, 1, 1) != 1
    padded = jnp.where(mask, x, jnp.nan)
    layer = WeightNorm(nn.Dense(3, **WAVES), initialization="data")
    y, variables = initialize(layer, padded, init_mask=mask)
    kept = np.asarray(y)[mask.ravel()]
    np.testing.assert_allclose(kept.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(kept.std((0, 1, 2)), 1, rtol=1e-4)
    alone = initialize(layer, x[mask.ravel()])[1]
    chex.assert_trees_all_close(variables, alone, rtol=1e-5, atol=1e-6)
    again = jax.jit(layer.apply)(variables, padded, init_mask=mask)
    chex.assert_trees_all_close(again, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3), (1, 28, 28, 3)])
def test_a_batch_of_ones_leaves_the_scales_at_1(shape):
    """As is often used to create the parameters, before a checkpoint is loaded."""
    if len(shape) == 2:
        inner = nn.Dense(4, kernel_init=wave)
    else:
        inner = nn.Conv(4, (3, 3), padding="VALID", kernel_init=wave)
    layer = WeightNorm(inner, initialization="data")
    y, variables = initialize(layer, jax.device_put(np.ones(shape, np.float32)))
    np.testing.assert_array_equal(variables["params"]["layer_instance/kernel/scale"], 1)
    np.testing.assert_allclose(y, 0, atol=1e-5)


BAD_INITIALIZATION = {
    "unknown": ({"initialization": "torch"}, nn.Dense(3), ("torch", "preserve")),
    "preserve without scales": (
        {"initialization": "preserve", "use_scale": False}, nn.Dense(3), ("use_scale",)
    ),
    "data without scales": (
        {"initialization": "data", "use_scale": False}, nn.Dense(3), ("use_scale",)
    ),
    "several kernels": (
        {"initialization": "data"},
        nn.Sequential([nn.Dense(3), nn.Dense(2)]),
        ("layers_0/kernel", "layers_1/kernel", "Wrap each"),
    ),
    "no kernel": (
        {"initialization": "data"}, nn.LayerNorm(), ("scale", "variable_filter")
    ),
    "one scale for several units": (
        {"initialization": "data", "feature_axes": None}, nn.Dense(3), ("bias", "(3,)")
    ),
    "units on another axis": (
        {"initialization": "data", "feature_axes": 0}, nn.Dense(4), ("g", "(3,)")
    ),
    "a string as a filter": (
        {"variable_filter": "kernel"}, nn.Dense(3), ("variable_filter", "{'kernel'}")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_INITIALIZATION)
def test_bad_options_of_weight_norm(name, x, as_users_run_it):
    options, inner, says = BAD_INITIALIZATION[name]
    with refused(*says):
        shapes(WeightNorm(inner, **options), x)


@pytest.mark.parametrize("initialization", ["scale_init", "preserve"])
def test_a_mask_without_data_dependent_initialization(initialization, x):
    with refused("init_mask", '"data"', initialization):
        shapes(WeightNorm(nn.Dense(3), initialization=initialization), x, init_mask=1)


# ---- spectral norm


def test_spectral_norm_moves_u_and_sigma_with_update_stats_only(x):
    layer = SpectralNorm(nn.Dense(5, kernel_init=wave))
    _, variables = initialize(layer, x, update_stats=False)
    u, kernel = (
        variables["batch_stats"]["layer_instance/kernel/u"],
        variables["params"]["layer_instance"]["kernel"],
    )
    assert variables["batch_stats"]["layer_instance/kernel/sigma"] == 1

    @jax.jit
    def steps(variables, x, kernel, u):
        still, moved = (
            layer.apply(variables, x, update_stats=update_stats, mutable=True)
            for update_stats in (False, True)
        )
        return still, moved, spectral_norm(kernel, u)

    (y, same), (moved_y, updates), (_, new_u, sigma) = steps(
        variables, x, kernel, jax.device_put(np.asarray(u)[0])
    )
    chex.assert_trees_all_equal(same, variables)
    np.testing.assert_array_equal(y, moved_y)
    np.testing.assert_allclose(
        updates["batch_stats"]["layer_instance/kernel/u"],
        np.asarray(new_u)[None],
        rtol=1e-6,
    )
    np.testing.assert_allclose(
        updates["batch_stats"]["layer_instance/kernel/sigma"], sigma, rtol=1e-6
    )
    # where Flax's class stores the normalized kernel, if all is mutable
    chex.assert_trees_all_equal(updates["params"], variables["params"])
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        jax.eval_shape(functools.partial(layer.apply, update_stats=True), variables, x)


@pytest.mark.full  # of NNX, one with a warm start is in the default tier
def test_spectral_norm_starts_warm(x, rng):
    kernel = rng.normal(size=(48, 64)) / np.sqrt(48)

    def init(key, shape, dtype):
        return place(kernel, dtype)

    def first_norm(**options):
        layer = SpectralNorm(nn.Dense(64, kernel_init=init), **options)
        _, variables = initialize(layer, x.reshape(8, -1), update_stats=False)
        return np.linalg.norm(variables["params"]["layer_instance"]["kernel"], 2)

    cold, warm = first_norm(), first_norm(warm_up_steps=15)
    assert cold > 1.2
    assert 1 <= warm < 1.05


def test_spectral_norm_keeps_the_dtype_of_u(x):
    layer = SpectralNorm(nn.Dense(5), param_dtype=jnp.bfloat16, warm_up_steps=2)
    variables = shapes(layer, x, update_stats=False)
    step = apply(layer, update_stats=True)
    _, updates = jax.eval_shape(step, variables, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        updates["batch_stats"], variables["batch_stats"]
    )
    assert updates["batch_stats"]["layer_instance/kernel/u"].dtype == jnp.bfloat16


def test_spectral_norm_of_more_than_two_axes_as_an_error(x):
    layer = SpectralNorm(nn.Conv(4, (3, 3)), error_on_non_matrix=True)
    with pytest.raises(ValueError, match=r"Input is 4D .* \(3, 3, 3, 4\)"):
        shapes(layer, x, update_stats=False)
    shapes(SpectralNorm(nn.Dense(4), error_on_non_matrix=True), x, update_stats=False)


# ---- weight standardization


@pytest.mark.parametrize("use_gain", [False, True])
def test_weight_standardization_is_the_function_on_the_kernel(use_gain, x):
    conv = nn.Conv(4, (3, 3), kernel_init=wave)
    layer = WeightStandardization(
        conv, use_gain=use_gain, gain_init=nn.initializers.constant(3.0), epsilon=1e-3
    )

    @jax.jit
    def run(key, x):
        y, variables = layer.init_with_output(key, x)
        params = variables["params"]["layer_instance"]
        gain = variables["params"].get("layer_instance/kernel/gain")
        kernel = standardize_weight(params["kernel"], gain=gain, epsilon=1e-3)
        expected = conv.apply({"params": params | {"kernel": kernel}}, x)
        return y, variables, layer.apply(variables, x), expected

    y, variables, again, expected = run(KEY, x)
    assert ("layer_instance/kernel/gain" in variables["params"]) == use_gain
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(again, y)


def test_weight_standardization_stores_and_loads_the_bare_kernel(x):
    class Bare(nn.Module):
        wrap: bool

        @nn.compact
        def __call__(self, x):
            conv = nn.Conv(4, (3, 3), kernel_init=wave)
            return (WeightStandardization(conv) if self.wrap else conv)(x)

    wrapped, bare = (initialize(Bare(wrap), x)[1] for wrap in (True, False))
    chex.assert_trees_all_equal(wrapped, bare)


# ---- all three

WRAPPERS = [(WeightNorm, {}), (SpectralNorm, {"update_stats": True}),
            (WeightStandardization, {})]  # fmt: skip
every_wrapper = pytest.mark.parametrize("cls, call", WRAPPERS)
most_in_full = pytest.mark.parametrize("cls, call", matrix(WRAPPERS, WRAPPERS[1:2]))
with_weight_norm = pytest.mark.parametrize("cls, call", matrix(WRAPPERS, WRAPPERS[:1]))


@most_in_full
def test_gradients_flow_to_all_parameters_and_no_statistic(cls, call, x):
    options = {"use_gain": True} if cls is WeightStandardization else {}
    model = Model(cls, options, block_alone=True)
    variables = drawn(model, x, **call)

    def loss(variables):
        y, _ = model.apply(variables, x, mutable=["batch_stats"], **call)
        return jnp.sum(jnp.sin(y))

    gradients = jax.jit(jax.grad(loss))(variables)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all()
        is_statistic = path[0].key == "batch_stats"
        assert np.any(gradient != 0) != is_statistic, path


@with_weight_norm
def test_a_wrapped_block_with_a_batch_norm_trains(cls, call, x):
    """Flax's WeightNorm makes its statistics immutable, and its filter sees them."""

    class WithStatistics(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, kernel_init=wave)(x)
            x = BatchNorm(use_running_average=False, axis=(-2, -1))(x)
            self.sow("intermediates", "output", x)
            return x

    layer = cls(WithStatistics())
    _, variables = initialize(layer, x, **call)
    stats = variables["batch_stats"]["layer_instance"]["BatchNorm_0"]
    np.testing.assert_array_equal(stats["mean"], 0)
    _, updates = apply(layer, ("batch_stats", "intermediates"), **call)(variables, x)
    new = updates["batch_stats"]["layer_instance"]["BatchNorm_0"]
    assert new["mean"].shape == (4, 4) and np.all(new["mean"] != 0)
    assert len(updates["intermediates"]["layer_instance"]["output"]) == 1


BOXED = [
    *((*wrapper, None) for wrapper in WRAPPERS),
    (WeightNorm, {}, "preserve"),
    (WeightNorm, {}, "data"),
]


@pytest.mark.parametrize("cls, call, option", matrix(BOXED, (BOXED[2], BOXED[3])))
def test_partitioned_parameters_keep_their_boxes(cls, call, option, x):
    initializer = nn.with_partitioning(wave, (None, "x"))
    options = {}
    if option is not None:
        ones = nn.with_partitioning(nn.initializers.ones, ("x",))
        options = {"initialization": option, "scale_init": ones}
    layers = [
        cls(nn.Dense(5, **inner), **options)
        for inner in ({"kernel_init": initializer}, {"kernel_init": wave})
    ]
    (y, boxed), (expected, plain) = (initialize(v, x, **call) for v in layers)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    kernel = boxed["params"]["layer_instance"]["kernel"]
    assert kernel.names == (None, "x")
    np.testing.assert_array_equal(
        kernel.value, plain["params"]["layer_instance"]["kernel"]
    )
    if option is not None:
        scale = boxed["params"]["layer_instance/kernel/scale"]
        assert scale.names == ("x",)
    expected, _ = apply(layers[1], **call)(plain, x)
    for variables in (boxed, nn.unbox(boxed)):  # under the same names
        y, _ = apply(layers[0], **call)(variables, x)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    inserted = insert_variables(boxed, plain)
    chex.assert_trees_all_equal(inserted["params"], boxed["params"])


# In the default tier, test_linen_family.py has remat within vmap within scan.
@pytest.mark.full
@every_wrapper
@pytest.mark.parametrize("lift", ("scan", "vmap", "remat"))
def test_lifted_transformations(cls, call, lift, rng):
    class Layer(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jnp.sin(cls(nn.Dense(4))(x, **call)), None

    axes = {"params": 0, "batch_stats": 0}
    split = {"params": True}
    match lift:
        case "scan":
            lifted = nn.scan(Layer, variable_axes=axes, split_rngs=split, length=3)
        case "vmap":
            lifted = nn.vmap(
                Layer, variable_axes=axes, split_rngs=split, in_axes=(1, None)
            )
        case "remat":
            lifted = nn.remat(Layer)
    model, x = lifted(), place(rng.normal(size=(6, 3, 4)))
    variables = jax.tree.map(
        lambda leaf: place(rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(model.init, KEY, x, None),
    )
    traces = []

    @jax.jit
    @jax.grad
    def gradient(params):
        traces.append(None)
        (y, _), updates = model.apply(
            {**variables, "params": params}, x, None, mutable=["batch_stats"]
        )
        chex.assert_trees_all_equal_shapes_and_dtypes(
            updates.get("batch_stats", {}), variables.get("batch_stats", {})
        )
        return jnp.sum(y**2)

    for _ in range(2):
        gradients = gradient(variables["params"])
    assert len(traces) == 1
    assert all(np.any(g != 0) for g in jax.tree.leaves(gradients))
    chex.assert_tree_all_finite(gradients)


@pytest.mark.full  # that of NNX is in the default tier
def test_a_bias_that_was_0_is_left_alone():
    """Else one of attention would have the norm 1 from the first update on."""
    layer = SpectralNorm(nn.DenseGeneral((3, 2)))
    x = jnp.ones((4, 5))
    variables = jax.jit(functools.partial(layer.init, update_stats=False))(KEY, x)
    variables |= apply(layer, update_stats=True)(variables, x)[1]
    params = variables["params"]["layer_instance"]
    moved = variables | {
        "params": {"layer_instance": params | {"bias": jnp.full((3, 2), 1e-3)}}
    }
    infer = apply(layer, mutable=(), update_stats=False)
    difference = infer(moved, x)[0] - infer(variables, x)[0]
    np.testing.assert_allclose(difference, 1e-3, rtol=1e-3)
