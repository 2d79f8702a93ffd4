"""The wrappers of layers, beside those of `flax.linen`."""

import chex
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from refusals import refused

from jaxnorm.linen.batch_norm import BatchNorm
from jaxnorm.linen.spectral_norm import SpectralNorm
from jaxnorm.linen.weight_norm import WeightNorm
from jaxnorm.linen.weight_standardization import WeightStandardization
from jaxnorm.weight.spectral_norm import spectral_norm
from jaxnorm.weight.standardize_weight import standardize_weight

KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def standard_promotion():
    # Flax's classes raise under strict dtype promotion in half precision.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def x(rng):
    return jnp.asarray(rng.normal(size=(8, 4, 4, 3)) * 2 + 1, jnp.float32)


class Block(nn.Module):
    """Two layers to be wrapped as one."""

    param_dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        x = jnp.tanh(nn.Dense(5, param_dtype=self.param_dtype)(x))
        return nn.Dense(2, param_dtype=self.param_dtype)(x)


class Model(nn.Module):
    """Wrapped layers with names that Flax gives them, between others."""

    wrapper: type[nn.Module]
    options: dict
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, **call):
        kinds = {"param_dtype": self.dtype, "bias_init": nn.initializers.normal()}

        def wrap(layer):
            return self.wrapper(layer, **self.options)

        x = jnp.tanh(wrap(nn.Conv(4, (3, 3), **kinds))(x, **call))
        x = wrap(nn.DenseGeneral((3, 2), **kinds))(x, **call)
        x = x.reshape(*x.shape[:-2], -1).mean((1, 2))
        return wrap(Block(self.dtype))(x, **call)


def run(cls, options, x, dtype=jnp.float32, **call):
    """Initialization, and two steps with gradients and statistics."""
    model = Model(cls, options, dtype)
    initial, variables = model.init_with_output(KEY, x, **call)
    params, stats = variables["params"], variables.get("batch_stats", {})

    # Not compiled: options share what each of their operations is compiled to.
    def step(params, x, stats):
        def loss(params, x):
            y, updates = model.apply(
                {"params": params, "batch_stats": stats},
                x,
                mutable=["batch_stats"],
                **call,
            )
            return jnp.sum(jnp.sin(y)), (y, updates.get("batch_stats", {}))

        return jax.grad(loss, (0, 1), has_aux=True)(params, x)

    outputs = [variables, initial]
    for _ in range(2):
        gradients, (y, stats) = step(params, x, stats)
        outputs += [gradients, y, stats]
    return outputs


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
    "epsilon": {"epsilon": 0.1},
    "bfloat16 result": {"dtype": jnp.bfloat16},
    "collection": {"collection_name": "spectral"},
}


# What makes their code take another way; the others change a number.
OFTEN = {"defaults", "no scale", "one norm", "bfloat16 scale"}


def _some_slow(options):
    return [
        pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow)
        for name in options
    ]


def check_same(ours, flax, half):
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, flax)
    tolerance = 3e-2 if half else 2e-5
    chex.assert_trees_all_close(ours, flax, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", _some_slow(WEIGHT_NORM_OPTIONS))
def test_weight_norm_has_the_tree_and_values_of_flax(name, x):
    options = WEIGHT_NORM_OPTIONS[name]
    ours, flax = run(WeightNorm, options, x), run(nn.WeightNorm, options, x)
    check_same(ours, flax, jnp.bfloat16 in options.values())


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"param_dtype": jnp.bfloat16}], ids=str)
def test_weight_norm_of_bfloat16_parameters(options, x):
    ours, flax = (
        run(cls, options, x, jnp.bfloat16) for cls in (WeightNorm, nn.WeightNorm)
    )
    check_same(ours, flax, half=True)


@pytest.mark.parametrize(
    ("name", "update_stats"),
    [
        pytest.param("defaults", False, marks=pytest.mark.slow),
        *((name, True) for name in SPECTRAL_NORM_OPTIONS),
    ],
)
def test_spectral_norm_has_the_tree_and_values_of_flax(name, update_stats, x):
    options = SPECTRAL_NORM_OPTIONS[name]
    if "collection_name" in options:  # another is not mutable, nor passed, in `run`
        ours, flax = (
            Model(cls, options).init_with_output(KEY, x, update_stats=update_stats)
            for cls in (SpectralNorm, nn.SpectralNorm)
        )
        assert set(ours[1]) == {"params", "spectral"}
    else:
        ours, flax = (
            run(cls, options, x, update_stats=update_stats)
            for cls in (SpectralNorm, nn.SpectralNorm)
        )
    check_same(ours, flax, jnp.bfloat16 in options.values())


def test_names_of_variables(x):
    variables = Model(WeightNorm, {}).init(KEY, x)
    assert set(variables["params"]["WeightNorm_0"]) == {"Conv_0/kernel/scale"}
    assert set(variables["params"]["WeightNorm_2"]) == {
        "Block_0/Dense_0/kernel/scale",
        "Block_0/Dense_1/kernel/scale",
    }
    variables = Model(SpectralNorm, {}).init(KEY, x, update_stats=True)
    assert set(variables["batch_stats"]["SpectralNorm_1"]) == {
        "DenseGeneral_0/kernel/u",
        "DenseGeneral_0/kernel/sigma",
        "DenseGeneral_0/bias/u",  # a matrix, too: (3, 2)
        "DenseGeneral_0/bias/sigma",
    }
    options = {"use_gain": True}
    variables = Model(WeightStandardization, options).init(KEY, x)
    gains = variables["params"]["WeightStandardization_0"]
    assert set(gains) == {"Conv_0/kernel/gain"}


@pytest.mark.parametrize("ours, flax, call", [
    (WeightNorm, nn.WeightNorm, {}),
    (SpectralNorm, nn.SpectralNorm, {"update_stats": False}),
])  # fmt: skip
def test_checkpoints_load_either_way(ours, flax, call, x):
    for source in (ours, flax):
        variables = Model(source, {}).init(jax.random.key(1), x, **call)
        outputs = [Model(cls, {}).apply(variables, x, **call) for cls in (ours, flax)]
        np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)


# ---- how the scale of weight norm starts


@pytest.mark.parametrize("layer", [
    lambda: nn.Conv(4, (3, 3)),
    lambda: nn.DenseGeneral((3, 2)),
    Block,
])  # fmt: skip
@pytest.mark.parametrize("feature_axes", [-1, 0, None])
def test_preserve_computes_what_the_bare_layer_does(layer, feature_axes, x):
    class Bare(nn.Module):
        wrap: bool
        options: dict

        @nn.compact
        def __call__(self, x):
            inner = layer()
            return (WeightNorm(inner, **self.options) if self.wrap else inner)(x)

    options = {"feature_axes": feature_axes}
    bare, parameters = Bare(False, options).init_with_output(KEY, x)
    preserve = Bare(True, options | {"initialization": "preserve"})
    wrapped, variables = preserve.init_with_output(KEY, x)
    np.testing.assert_allclose(wrapped, bare, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(preserve.apply(variables, x), bare, rtol=1e-4, atol=1e-5)
    scales = variables["params"].pop("WeightNorm_0")
    chex.assert_trees_all_close(variables, parameters, rtol=1e-5)
    assert not any(np.allclose(scale, 1, atol=0.05) for scale in scales.values())
    changed = Bare(True, options).init_with_output(KEY, x)[0]
    assert not np.allclose(changed, bare, rtol=0.05)


class Stack(nn.Module):
    """Two wrapped layers, whose outputs before the activation it returns."""

    use_bias: bool = True

    @nn.compact
    def __call__(self, x):
        kinds = {"use_bias": self.use_bias, "bias_init": nn.initializers.normal(3.0)}
        first = WeightNorm(nn.Conv(4, (3, 3), **kinds), initialization="data")(x)
        second = WeightNorm(nn.Dense(5, **kinds), initialization="data")
        return first, second(nn.relu(first))


@pytest.mark.parametrize("use_bias", [True, False])
def test_one_pass_initializes_all_layers_from_data(use_bias, x):
    model = Stack(use_bias)
    outputs, variables = jax.jit(model.init_with_output)(KEY, x)
    chex.assert_trees_all_close(outputs, model.apply(variables, x), atol=1e-5)
    for y in outputs:
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
        nn.DenseGeneral((3, 2)), feature_axes=(-2, -1), initialization="data"
    )
    y, variables = layer.init_with_output(KEY, x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 1, 2)), 1, rtol=1e-4)
    assert variables["params"]["layer_instance/kernel/scale"].shape == (3, 2)


@pytest.mark.parametrize("shape", [(1, 3), (1, 28, 28, 3)])
def test_a_batch_of_ones_leaves_the_scales_at_1(shape):
    """As is often used to create the parameters, before a checkpoint is loaded."""
    inner = nn.Dense(4) if len(shape) == 2 else nn.Conv(4, (3, 3), padding="VALID")
    layer = WeightNorm(inner, initialization="data")
    y, variables = layer.init_with_output(KEY, jnp.ones(shape))
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
        WeightNorm(inner, **options).init(KEY, x)


# ---- spectral norm


def test_spectral_norm_moves_u_and_sigma_with_update_stats_only(x):
    layer = SpectralNorm(nn.Dense(5))
    variables = layer.init(KEY, x, update_stats=False)
    u, kernel = (
        variables["batch_stats"]["layer_instance/kernel/u"],
        variables["params"]["layer_instance"]["kernel"],
    )
    assert variables["batch_stats"]["layer_instance/kernel/sigma"] == 1
    y, updates = layer.apply(variables, x, update_stats=False, mutable=True)
    chex.assert_trees_all_equal(updates, variables)
    moved_y, updates = layer.apply(variables, x, update_stats=True, mutable=True)
    np.testing.assert_array_equal(y, moved_y)
    _, new_u, sigma = spectral_norm(kernel, u[0])
    np.testing.assert_allclose(
        updates["batch_stats"]["layer_instance/kernel/u"], new_u[None], rtol=1e-6
    )
    np.testing.assert_allclose(
        updates["batch_stats"]["layer_instance/kernel/sigma"], sigma, rtol=1e-6
    )
    # where Flax's class stores the normalized kernel, if all is mutable
    chex.assert_trees_all_equal(updates["params"], variables["params"])
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        layer.apply(variables, x, update_stats=True)


def test_spectral_norm_starts_warm(x):
    def first_norm(**options):
        layer = SpectralNorm(nn.Dense(64), **options)
        variables = layer.init(KEY, x.reshape(8, -1), update_stats=False)
        return np.linalg.norm(variables["params"]["layer_instance"]["kernel"], 2)

    cold, warm = first_norm(), first_norm(warm_up_steps=15)
    assert cold > 1.2
    assert 1 <= warm < 1.05


def test_spectral_norm_keeps_the_dtype_of_u(x):
    layer = SpectralNorm(nn.Dense(5), param_dtype=jnp.bfloat16, warm_up_steps=2)
    variables = layer.init(KEY, x, update_stats=False)
    _, updates = layer.apply(variables, x, update_stats=True, mutable=["batch_stats"])
    chex.assert_trees_all_equal_shapes_and_dtypes(
        updates["batch_stats"], variables["batch_stats"]
    )
    assert updates["batch_stats"]["layer_instance/kernel/u"].dtype == jnp.bfloat16


def test_spectral_norm_of_more_than_two_axes_as_an_error(x):
    layer = SpectralNorm(nn.Conv(4, (3, 3)), error_on_non_matrix=True)
    with pytest.raises(ValueError, match=r"Input is 4D .* \(3, 3, 3, 4\)"):
        layer.init(KEY, x, update_stats=False)
    SpectralNorm(nn.Dense(4), error_on_non_matrix=True).init(KEY, x, update_stats=False)


# ---- weight standardization


@pytest.mark.parametrize("use_gain", [False, True])
def test_weight_standardization_is_the_function_on_the_kernel(use_gain, x):
    conv = nn.Conv(4, (3, 3), feature_group_count=1)
    layer = WeightStandardization(
        conv, use_gain=use_gain, gain_init=nn.initializers.constant(3.0), epsilon=1e-3
    )
    y, variables = layer.init_with_output(KEY, x)
    params = variables["params"]["layer_instance"]
    gain = variables["params"].get("layer_instance/kernel/gain")
    assert (gain is not None) == use_gain
    kernel = standardize_weight(params["kernel"], gain=gain, epsilon=1e-3)
    expected = conv.apply({"params": params | {"kernel": kernel}}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(layer.apply(variables, x), y)


def test_weight_standardization_stores_and_loads_the_bare_kernel(x):
    class Bare(nn.Module):
        wrap: bool

        @nn.compact
        def __call__(self, x):
            conv = nn.Conv(4, (3, 3))
            return (WeightStandardization(conv) if self.wrap else conv)(x)

    wrapped, bare = (Bare(wrap).init(KEY, x) for wrap in (True, False))
    chex.assert_trees_all_equal(wrapped, bare)


# ---- all three

WRAPPERS = [(WeightNorm, {}), (SpectralNorm, {"update_stats": True}),
            (WeightStandardization, {})]  # fmt: skip
every_wrapper = pytest.mark.parametrize("cls, call", WRAPPERS)


@every_wrapper
def test_gradients_flow_to_all_parameters_and_no_statistic(cls, call, x):
    options = {"use_gain": True} if cls is WeightStandardization else {}
    model = Model(cls, options)
    variables = model.init(KEY, x, **call)

    def loss(variables):
        y, _ = model.apply(variables, x, mutable=["batch_stats"], **call)
        return jnp.sum(jnp.sin(y))

    gradients = jax.jit(jax.grad(loss))(variables)
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(gradient).all()
        is_statistic = path[0].key == "batch_stats"
        assert np.any(gradient != 0) != is_statistic, path


@every_wrapper
def test_a_wrapped_block_with_a_batch_norm_trains(cls, call, x):
    """Flax's WeightNorm makes its statistics immutable, and its filter sees them."""

    class WithStatistics(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = BatchNorm(use_running_average=False, axis=(-2, -1))(nn.Dense(4)(x))
            self.sow("intermediates", "output", x)
            return x

    layer = cls(WithStatistics())
    variables = layer.init(KEY, x, **call)
    stats = variables["batch_stats"]["layer_instance"]["BatchNorm_0"]
    np.testing.assert_array_equal(stats["mean"], 0)
    _, updates = layer.apply(
        variables, x, mutable=["batch_stats", "intermediates"], **call
    )
    new = updates["batch_stats"]["layer_instance"]["BatchNorm_0"]
    assert new["mean"].shape == (4, 4) and (new["mean"] != 0).all()
    assert len(updates["intermediates"]["layer_instance"]["output"]) == 1


@pytest.mark.parametrize("cls, call, option", [
    *((*wrapper, None) for wrapper in WRAPPERS),
    (WeightNorm, {}, "preserve"),
    (WeightNorm, {}, "data"),
])  # fmt: skip
def test_partitioned_parameters_keep_their_boxes(cls, call, option, x):
    initializer = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "x"))
    options = {}
    if option is not None:
        ones = nn.with_partitioning(nn.initializers.ones, ("x",))
        options = {"initialization": option, "scale_init": ones}
    layers = [
        cls(nn.Dense(5, **inner), **options)
        for inner in ({"kernel_init": initializer}, {})
    ]
    (y, boxed), (expected, plain) = (v.init_with_output(KEY, x, **call) for v in layers)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    kernel = boxed["params"]["layer_instance"]["kernel"]
    assert kernel.names == (None, "x")
    np.testing.assert_array_equal(
        kernel.value, plain["params"]["layer_instance"]["kernel"]
    )
    if option is not None:
        scale = boxed["params"]["layer_instance/kernel/value/scale"]
        assert scale.names == ("x",)
    mutable = ["batch_stats"]
    y, _ = layers[0].apply(boxed, x, mutable=mutable, **call)
    expected, _ = layers[1].apply(plain, x, mutable=mutable, **call)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


@every_wrapper
@pytest.mark.parametrize("lift", ["scan", "vmap", "remat"])
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
    model, x = lifted(), jnp.asarray(rng.normal(size=(6, 3, 4)), jnp.float32)
    variables = model.init(KEY, x, None)
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
    assert all((g != 0).any() for g in jax.tree.leaves(gradients))
    chex.assert_tree_all_finite(gradients)
