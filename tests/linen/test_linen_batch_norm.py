"""`jaxnorm.linen.BatchNorm` beside `flax.linen.BatchNorm`."""

import functools

import chex
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.drawing import place
from support.tiers import matrix

import jaxnorm
import jaxnorm.linen

OURS, FLAX = jaxnorm.linen.BatchNorm, nn.BatchNorm
SHAPE = (6, 4, 3)


# Flax's class raises under strict dtype promotion in half precision.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def x(rng):
    return place(rng.normal(size=SHAPE) * 2 + 1)


def run(cls, options, x, mask=None):
    """Initialization, a training step with gradients, another one, and inference."""
    norm = cls(**options)
    initial_y, variables = norm.init_with_output(
        jax.random.key(0), x, use_running_average=False
    )
    params, stats = variables.get("params", {}), variables["batch_stats"]

    def train(params, x, stats):
        y, updates = norm.apply(
            {"params": params, "batch_stats": stats},
            x,
            use_running_average=False,
            mutable=["batch_stats"],
            mask=mask,
        )
        return jnp.sum(jnp.abs(jnp.sin(y))), (y, updates["batch_stats"])

    step = jax.grad(train, argnums=(0, 1), has_aux=True)
    gradients, (y, stats) = step(params, x, stats)
    outputs = [variables, initial_y, gradients, y, stats]
    # of which the gradients do not depend on the statistics
    y, stats = train(params, x, stats)[1]
    variables = {"params": params, "batch_stats": stats}
    return [*outputs, y, stats, norm.apply(variables, x, use_running_average=True)]


def run_both(options, x, mask=None):
    """Our class and Flax's, in one program."""
    return jax.jit(lambda *args: [run(cls, options, *args) for cls in (OURS, FLAX)])(
        x, mask
    )


OPTIONS = {
    "defaults": {},
    "feature axis": {"axis": 1},
    "feature axes": {"axis": (1, -1)},
    "momentum, epsilon": {"momentum": 0.9, "epsilon": 1e-2},
    "no scale": {"use_scale": False},
    "no bias": {"use_bias": False},
    "no parameters": {"use_scale": False, "use_bias": False},
    "bfloat16 result": {"dtype": jnp.bfloat16},
    "bfloat16 parameters": {"param_dtype": jnp.bfloat16},
    "initializers": {
        "scale_init": nn.initializers.normal(),
        "bias_init": nn.initializers.uniform(),
    },
    "two passes": {"use_fast_variance": False},
}


@pytest.mark.parametrize(
    "name",
    matrix(
        OPTIONS,
        often=(
            "defaults",
            "feature axes",
            "no parameters",
            "bfloat16 parameters",
            "initializers",
        ),
    ),
)
def test_same_tree_and_values_as_flax(name, x):
    options = OPTIONS[name]
    ours, flax = run_both(options, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, flax)
    half = jnp.bfloat16 in options.values()
    tolerance = 2e-2 if half else 1e-5
    chex.assert_trees_all_close(ours, flax, rtol=tolerance, atol=tolerance)
    # the parameters are drawn with the same keys
    chex.assert_trees_all_equal(ours[0], flax[0])


@pytest.mark.parametrize(
    "dtype",
    matrix(
        (jnp.bfloat16, jnp.float16, jnp.complex64),
        often=(jnp.bfloat16, jnp.complex64),
    ),
)
def test_same_as_flax_for_input_of(dtype, x):
    x = np.asarray(x).astype(dtype)
    if dtype == jnp.complex64:
        x = x + np.complex64(1j) * x[::-1]
    ours, flax = run_both({}, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, flax)
    chex.assert_trees_all_close(ours, flax, rtol=2e-2, atol=2e-2)


def test_integers_are_converted_as_in_flax(x):
    x = jax.device_put(np.int32(3 * np.asarray(x)))
    norms = [cls(use_running_average=False) for cls in (OURS, FLAX)]
    ours, flax = jax.jit(
        lambda x: [norm.init_with_output(jax.random.key(0), x) for norm in norms]
    )(x)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, flax)
    chex.assert_trees_all_close(ours, flax, rtol=1e-5, atol=1e-5)


def test_statistics_stored_in_the_dtype_of_the_parameters_stay_in_it(x):
    options = {"param_dtype": jnp.bfloat16, "force_float32_reductions": False}
    ours, flax = run_both(options, x)
    chex.assert_trees_all_equal(ours[0], flax[0])
    for stats in ours[4], ours[6]:  # Flax's become float32 with the first update
        chex.assert_trees_all_equal_dtypes(stats, ours[0]["batch_stats"])
    chex.assert_trees_all_close(ours[4], flax[4], rtol=1e-2, atol=1e-2)


def test_same_as_flax_with_a_mask(x, rng):
    mask = rng.uniform(size=(*SHAPE[:2], 1)) < 0.6
    ours, flax = run_both({}, x, mask)
    chex.assert_trees_all_close(ours, flax, rtol=1e-5, atol=1e-5)


class Model(nn.Module):
    """Dense layers between automatically named norms."""

    norm: type[nn.Module]

    @nn.compact
    def __call__(self, x, train):
        for features in (5, 7):
            x = nn.Dense(features)(x)
            x = self.norm(use_running_average=not train)(x)
        return x


def test_same_names_in_a_model(x):
    ours, flax = (
        jax.eval_shape(
            functools.partial(Model(cls).init, train=True), jax.random.key(0), x
        )
        for cls in (OURS, FLAX)
    )
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, flax)
    assert set(ours["batch_stats"]) == {"BatchNorm_0", "BatchNorm_1"}


def test_initialization_needs_no_axis_and_updates_nothing(x):
    norm = OURS(use_running_average=False, axis_name="elsewhere")
    variables = jax.jit(norm.init)(jax.random.key(0), x)
    np.testing.assert_array_equal(variables["batch_stats"]["mean"], 0)
    np.testing.assert_array_equal(variables["batch_stats"]["var"], 1)
    with pytest.raises(NameError, match="elsewhere"):
        jax.eval_shape(
            functools.partial(norm.apply, mutable=["batch_stats"]), variables, x
        )


def test_training_without_mutable_statistics_is_an_error(x):
    norm = OURS(use_running_average=False)
    variables = jax.jit(norm.init)(jax.random.key(0), x)
    with pytest.raises(flax.errors.ModifyScopeVariableError):
        jax.eval_shape(norm.apply, variables, x)


@pytest.mark.parametrize("cls", [OURS, jaxnorm.linen.RunningNorm])
@pytest.mark.parametrize("flag", [np.ones((4, 1), bool), 1], ids=["mask", "number"])
def test_a_mask_by_position_is_refused(cls, flag, x, as_users_run_it):
    says = "by keyword: mask=" if np.ndim(flag) else "must be a Python bool, .* got 1"
    with pytest.raises(TypeError, match=says):
        jax.eval_shape(lambda: cls().init(jax.random.key(0), x, flag))


def test_momentum_as_a_schedule_counts_its_updates_in_batch_stats(x):
    norm = OURS(use_running_average=False, momentum=lambda t: t / (t + 1))
    variables = jax.jit(norm.init)(jax.random.key(0), x)
    assert variables["batch_stats"]["count"].dtype == jnp.float32
    x = np.asarray(x)
    batches = [x, 2 * x + 1, 3 * x]
    step = jax.jit(functools.partial(norm.apply, mutable=["batch_stats"]))
    for batch in batches:
        _, updates = step(variables, batch)
        variables = {**variables, **updates}
    stats = variables["batch_stats"]
    assert stats["count"] == 3
    means = [np.mean(batch, (0, 1), dtype=np.float64) for batch in batches]
    np.testing.assert_allclose(stats["mean"], np.mean(means, axis=0), rtol=1e-5)


def test_a_checkpoint_without_a_count_and_a_schedule(x):
    trained = FLAX().init(jax.random.key(0), x, use_running_average=True)
    norm = OURS(momentum=jaxnorm.warmup_momentum())
    np.testing.assert_allclose(
        norm.apply(trained, x, use_running_average=True),
        FLAX().apply(trained, x, use_running_average=True),
        rtol=1e-6,
    )
    # to start at 0 would be to forget what was trained
    with pytest.raises(ValueError, match="must have a count"):
        norm.apply(trained, x, use_running_average=False, mutable=["batch_stats"])


def test_skip_nonfinite_keeps_all_statistics_and_the_count(x):
    norm = OURS(
        use_running_average=False,
        momentum=jaxnorm.warmup_momentum(),
        skip_nonfinite=True,
    )
    variables = jax.jit(norm.init)(jax.random.key(0), x)
    bad = np.array(x)
    bad[0, 0, 0] = np.nan
    step = jax.jit(functools.partial(norm.apply, mutable=["batch_stats"]))
    y, updates = step(variables, bad)
    assert np.isnan(np.asarray(y)[..., 0]).all()
    chex.assert_trees_all_equal(updates["batch_stats"], variables["batch_stats"])
    _, updates = step(variables, x)
    assert updates["batch_stats"]["count"] == 1


def test_unbiased_running_variance(x):
    norm = OURS(use_running_average=False, momentum=0.0, unbiased=True)
    variables = jax.jit(norm.init)(jax.random.key(0), x)
    step = jax.jit(functools.partial(norm.apply, mutable=["batch_stats"]))
    _, updates = step(variables, x)
    expected = np.var(np.asarray(x, np.float64), axis=(0, 1), ddof=1)
    np.testing.assert_allclose(updates["batch_stats"]["var"], expected, rtol=1e-5)


@pytest.mark.parametrize("lift", matrix(("scan", "vmap", "remat"), often=["scan"]))
def test_lifted_transformations(lift, x, rng):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            y = OURS(use_running_average=False, momentum=0.5)(x)
            return jnp.sin(y), None

    axes = {"params": 0, "batch_stats": 0}
    match lift:
        case "scan":
            lifted = nn.scan(
                Block, variable_axes=axes, split_rngs={"params": True}, length=3
            )
        case "vmap":
            lifted = nn.vmap(
                Block,
                variable_axes=axes,
                split_rngs={"params": True},
                in_axes=(1, None),
            )
        case "remat":
            lifted = nn.remat(Block)
    model = lifted()
    variables = jax.tree.map(
        lambda leaf: place(rng.normal(size=leaf.shape), leaf.dtype),
        jax.eval_shape(model.init, jax.random.key(0), x, None),
    )

    def loss(params):
        (y, _), updates = model.apply(
            {**variables, "params": params}, x, None, mutable=["batch_stats"]
        )
        return jnp.sum(y**2), updates

    gradients, updates = jax.jit(jax.grad(loss, has_aux=True))(variables["params"])
    chex.assert_trees_all_equal_shapes_and_dtypes(
        updates["batch_stats"], variables["batch_stats"]
    )
    chex.assert_tree_all_finite((gradients, updates))
    moved = updates["batch_stats"]["BatchNorm_0"]["mean"]
    assert np.all(moved != variables["batch_stats"]["BatchNorm_0"]["mean"])
