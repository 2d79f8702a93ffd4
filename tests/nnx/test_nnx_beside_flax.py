"""The drop-in classes beside those of `flax.nnx`, and what they add."""

import chex
import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.drawing import place
from support.tiers import matrix

import jaxnorm
import jaxnorm.linen
import jaxnorm.nnx

OURS = jaxnorm.nnx.BatchNorm
SHAPE = (6, 4, 8)


# Flax's classes raise under strict dtype promotion in half precision.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def x(rng):
    return place(rng.normal(size=SHAPE) * 2 + 1)


INIT = {"scale_init": nnx.initializers.normal(), "bias_init": nnx.initializers.normal()}
OPTIONS = {
    "BatchNorm": INIT,
    "BatchNorm, other axis": {"axis": 1, "num_features": 4, "momentum": 0.5} | INIT,
    "BatchNorm, no parameters": {"use_scale": False, "use_bias": False},
    "LayerNorm": INIT,
    "LayerNorm, reduction_axes": {"reduction_axes": (1, 2)} | INIT,
    "RMSNorm": {"scale_init": nnx.initializers.normal()},
    "GroupNorm": {"num_groups": 4} | INIT,
    "GroupNorm, group_size": {"num_groups": None, "group_size": 2} | INIT,
    "InstanceNorm": INIT,
}


def pair(name, rngs=0, **options):
    options = {"num_features": SHAPE[-1], **options}
    return [
        getattr(package, name)(**options, rngs=nnx.Rngs(rngs))
        for package in (jaxnorm.nnx, nnx)
    ]


forward = nnx.jit(lambda model, x: model(x))


@pytest.mark.parametrize(
    "case",
    matrix(
        OPTIONS,
        often=(
            "BatchNorm, other axis",
            "BatchNorm, no parameters",
            "LayerNorm, reduction_axes",
            "RMSNorm",
            "GroupNorm, group_size",
            "InstanceNorm",
        ),
    ),
)
def test_same_variables_and_values_as_flax(case, x):
    """Initial ones, two steps, their statistics, and inference; in one program."""

    @jax.jit
    def run(x):
        def steps(norm):
            initial, ys = nnx.to_pure_dict(nnx.state(norm)), [norm(x), norm(x)]
            after = nnx.to_pure_dict(nnx.state(norm))
            norm.eval()
            return initial, after, [*ys, norm(x)]

        return [steps(norm) for norm in pair(case.split(",")[0], **OPTIONS[case])]

    (initial, *ours), (flax_initial, *flax) = run(x)
    # drawn with the same keys
    chex.assert_trees_all_equal(initial, flax_initial)
    chex.assert_trees_all_close(ours, flax, rtol=1e-4, atol=1e-4)


class Model(nnx.Module):
    def __init__(self, package, rngs):
        self.linear = package.SpectralNorm(nnx.Linear(8, 8, rngs=rngs), rngs=rngs)
        self.batch = package.BatchNorm(8, rngs=rngs)
        self.group = package.GroupNorm(8, num_groups=2, rngs=rngs)

    def __call__(self, x):
        return self.group(self.batch(self.linear(x)))


def test_a_checkpoint_of_flax_loads(x):
    flax = nnx.jit(lambda: Model(nnx, nnx.Rngs(0)))()
    for _ in range(3):
        forward(flax, x)
    checkpoint = jax.device_get(nnx.to_pure_dict(nnx.state(flax)))
    ours = nnx.jit(lambda: Model(jaxnorm.nnx, nnx.Rngs(1)))()
    state = nnx.state(ours)
    nnx.replace_by_pure_dict(state, checkpoint)
    nnx.update(ours, state)
    ours.eval()
    flax.eval()
    y, expected = (forward(model, x) for model in (ours, flax))
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-4)
    nnx.replace_by_pure_dict(state, checkpoint)
    nnx.update(ours, state)
    ours.train()
    ours.batch(x)  # NumPy's arrays become JAX's
    assert isinstance(ours.batch.mean[...], jax.Array)


@pytest.mark.parametrize(
    "promote", [{}, {"promote_dtype": nnx.nn.dtypes.promote_dtype}]
)
def test_inference_in_bfloat16_does_not_round_statistics(promote):
    """Flax's casts the mean, which at 300.7 is 1.3 off: more than a deviation."""
    norm = OURS(1, dtype=jnp.bfloat16, **promote, rngs=nnx.Rngs(0))
    norm.mean.set_value(jnp.array([299.0]))
    norm.var.set_value(jnp.array([1.0]))
    norm.eval()
    y = norm(jnp.array([[300.0]], jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(y.astype(jnp.float32), [[1.0]], rtol=1e-2)
    assert norm.mean[...] == 299.0
    flax = nnx.BatchNorm(
        1, dtype=jnp.bfloat16, use_running_average=True, rngs=nnx.Rngs(0)
    )
    flax.mean[...], flax.var[...] = jnp.array([299.0]), jnp.array([1.0])
    assert abs(flax(jnp.array([[300.0]], jnp.bfloat16)).item() - 1) > 0.5


def test_by_default_the_input_is_not_rounded_either():
    """300 and 301 are the same bfloat16; 300.25 and 300.75 are not the same float32."""
    x = jnp.array([[300.25], [300.75]])
    y = OURS(1, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))(x)
    np.testing.assert_allclose(y.astype(jnp.float32), [[-1.0], [1.0]], rtol=1e-2)


EXTRAS = {
    "schedule": {"momentum": jaxnorm.warmup_momentum()},
    "unbiased": {"unbiased": True, "momentum": 0.5},
    "two axes": {"axis": [1, -1], "momentum": 0.5},
    "two passes": {"use_fast_variance": False, "momentum": 0.5},
    "skip": {"skip_nonfinite": True, "momentum": jaxnorm.warmup_momentum()},
}


@pytest.mark.parametrize("case", EXTRAS)
def test_options_beyond_flax_as_in_linen(case, x):
    options = EXTRAS[case]
    features = (4, 8) if case == "two axes" else 8
    ours = OURS(features, **options, rngs=nnx.Rngs(0))
    linen = jaxnorm.linen.BatchNorm(**options, use_running_average=False)
    variables = jax.jit(linen.init)(jax.random.key(0), x)
    x = np.asarray(x)
    nonfinite = np.where(np.arange(6)[:, None, None] == 0, np.float32(np.nan), x)

    @nnx.jit
    def step(ours, variables, x):
        y, updates = linen.apply(variables, x, mutable=["batch_stats"])
        return ours(x), y, {**variables, **updates}

    for batch in (x, nonfinite if case == "skip" else 2 * x, x + 1):
        actual, y, variables = step(ours, variables, batch)
        np.testing.assert_allclose(actual, y, rtol=1e-5, atol=1e-5)
    stats = nnx.to_pure_dict(nnx.state(ours, nnx.BatchStat))
    chex.assert_trees_all_close(stats, variables["batch_stats"], rtol=1e-6)
    assert ("count" in stats) == callable(options["momentum"])
    if case == "skip":
        assert stats["count"] == 2


def test_weighted_mask(x, rng):
    weights = place(rng.uniform(size=(6, 4, 1)))
    norm = OURS(8, momentum=0.0, rngs=nnx.Rngs(0))
    nnx.jit(lambda norm, x: norm(x, mask=weights))(norm, x)
    wide, w = np.asarray(x, np.float64), np.asarray(weights, np.float64)
    expected = (w * wide).sum((0, 1)) / w.sum()
    np.testing.assert_allclose(norm.mean[...], expected, rtol=1e-5)


def test_complex_input_makes_the_mean_complex(x):
    norm = OURS(8, momentum=0.0, rngs=nnx.Rngs(0))
    forward(norm, np.asarray(x) + np.complex64(2j))
    np.testing.assert_allclose(np.imag(norm.mean[...]), 2, rtol=1e-5)


def test_train_eval_and_view(x):
    norm = OURS(8, use_running_average=None, momentum=0.5, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="No `use_running_average` argument was prov"):
        norm(x)
    norm(x, True)
    assert (norm.mean[...] == 0).all()
    nnx.view(norm, use_running_average=False)(x)  # of the same variables
    mean = norm.mean[...]
    assert (mean != 0).all()
    norm.eval()
    norm(x)
    assert (norm.mean[...] == mean).all()
    norm.train()
    norm(x)
    assert (norm.mean[...] != mean).all()


def test_inference_writes_nothing(x):
    """So that a model may be closed over."""
    norm = OURS(8, use_running_average=True, rngs=nnx.Rngs(0))
    y = jax.jit(lambda x: norm(x))(x)
    np.testing.assert_allclose(y, norm(x), rtol=1e-5, atol=1e-6)
    norm.train()
    with pytest.raises(flax.errors.TraceContextError):
        jax.jit(lambda x: norm(x))(x)


def test_metadata_and_sharding(x):
    names = {"scale_metadata": {"out_sharding": ("model",)}}
    mesh = jax.make_mesh((8,), ("model",), axis_types=(jax.sharding.AxisType.Auto,))
    with jax.set_mesh(mesh):
        norm = nnx.jit(lambda: OURS(8, **names, rngs=nnx.Rngs(0)))()
    assert norm.scale.get_metadata("out_sharding") == ("model",)
    spec = nnx.get_partition_spec(nnx.state(norm))["scale"].get_value()
    assert spec == jax.sharding.PartitionSpec("model")


def test_ensembles_and_scan_over_layers(x):
    """Two models side by side, and three layers after one another, as in loops."""

    @nnx.jit
    @nnx.split_rngs(splits=3)
    @nnx.vmap
    def make(rngs):
        return OURS(8, momentum=0.5, **INIT, rngs=rngs)

    stacked = make(nnx.Rngs(0))
    graphdef, state = nnx.split(stacked)
    layers = [
        nnx.merge(graphdef, layer)
        for layer in (
            jax.tree.map(lambda a, i=i: jax.device_put(np.asarray(a)[i]), state)
            for i in range(3)
        )
    ]
    assert len(np.unique(np.asarray(stacked.scale[...])[:, 0])) == 3
    side_by_side, one = nnx.clone(stacked), np.asarray(x)
    xs = np.stack([one, 2 * one, one - 1])
    actual = nnx.jit(nnx.vmap(lambda norm, x: norm(x)))(side_by_side, xs)
    alone = [nnx.clone(layer) for layer in layers]
    for i, layer in enumerate(alone):
        y, variance = np.asarray(actual)[i], np.asarray(side_by_side.var[...])[i]
        np.testing.assert_allclose(y, forward(layer, xs[i]), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(variance, layer.var[...], rtol=1e-5)

    @nnx.jit
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
    def through_layers(x, norm):
        return jnp.sin(norm(x))

    y = through_layers(x, stacked)
    means, expected = np.asarray(stacked.mean[...]), one
    for i, layer in enumerate(layers):
        expected = np.sin(forward(layer, expected))
        np.testing.assert_allclose(means[i], layer.mean[...], atol=1e-6)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_pmap_equals_one_device(rng):
    x = np.float32(rng.normal(3, 2, (16, 8)))
    alone, shared = (
        OURS(8, momentum=0.5, axis_name=name, rngs=nnx.Rngs(0)) for name in (None, "i")
    )
    graphdef, state = nnx.split(shared)

    def step(state, x):
        norm = nnx.merge(graphdef, state)
        return norm(x), nnx.state(norm)

    step = jax.pmap(step, axis_name="i", in_axes=(None, 0))
    y, after = jax.device_get(step(state, x.reshape(8, 2, 8)))
    expected = forward(alone, x)
    np.testing.assert_allclose(y.reshape(16, 8), expected, rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        value = getattr(alone, name)[...]
        for device in range(8):
            np.testing.assert_allclose(after[name][device], value, rtol=1e-5)


BAD = {
    "features": (
        lambda: OURS(7, rngs=nnx.Rngs(0))(jnp.ones(SHAPE)),
        ValueError,
        "must have num_features=7",
    ),
    "groups": (
        lambda: jaxnorm.nnx.GroupNorm(8, 3, rngs=nnx.Rngs(0)),
        ValueError,
        "num_groups must divide",
    ),
    "both": (
        lambda: jaxnorm.nnx.GroupNorm(8, 4, 2, rngs=nnx.Rngs(0)),
        ValueError,
        "one of num_groups and group_size must be given",
    ),
    "steps": (
        lambda: jaxnorm.nnx.RecurrentBatchNorm(8, max_steps=0, rngs=nnx.Rngs(0)),
        ValueError,
        "max_steps must be at least 1",
    ),
    "bias of RMS": (
        lambda: jaxnorm.nnx.RMSNorm(8, use_bias=True, rngs=nnx.Rngs(0)),
        TypeError,
        "unexpected keyword argument 'use_bias'",
    ),
    "flag": (
        lambda: nnx.jit(lambda norm, flag: norm(jnp.ones(SHAPE), flag))(
            OURS(8, rngs=nnx.Rngs(0)), True
        ),
        TypeError,
        "use_running_average must be a Python bool",
    ),
    "mask by position": (
        lambda: OURS(8, rngs=nnx.Rngs(0))(jnp.ones(SHAPE), jnp.ones((6, 4, 1), bool)),
        TypeError,
        r"got an array of shape \(6, 4, 1\) and dtype bool. .* by keyword: mask=",
    ),
    "mask by position of frozen statistics": (
        lambda: frozen(OURS(8, rngs=nnx.Rngs(0)))(jnp.ones(SHAPE), jnp.ones((6, 4, 1))),
        TypeError,
        "by keyword: mask=",
    ),
    "mask by position of a stream": (
        lambda: jaxnorm.nnx.RunningNorm(8, rngs=nnx.Rngs(0))(
            jnp.ones(SHAPE), jnp.ones((6, 4, 1), bool)
        ),
        TypeError,
        "by keyword: mask=",
    ),
    "flag of a stream": (
        lambda: jaxnorm.nnx.RunningNorm(8, rngs=nnx.Rngs(0))(jnp.ones(SHAPE), 1),
        TypeError,
        "use_running_average must be a Python bool",
    ),
    "late schedule": (
        lambda: late_schedule(OURS(8, rngs=nnx.Rngs(0))),
        TypeError,
        "needs statistics that count their updates",
    ),
    "view": (
        lambda: nnx.view(OURS(8, rngs=nnx.Rngs(0)), collect_momentum=True),
        ValueError,
        "Unused keys found .*collect_momentum",
    ),
    "integers for an LSTM": (
        lambda: lstm_of(jnp.ones((2, 3, 4), jnp.int32)),
        TypeError,
        "inputs must be floating or complex, got int32",
    ),
    "features of an LSTM": (
        lambda: lstm_of(jnp.ones((2, 3, 5))),
        ValueError,
        r"inputs must have in_features=4 .* BatchNormLSTMCell\(5, 2, \.\.\.\)",
    ),
    "carry of another LSTM": (
        lambda: lstm_step((jnp.ones((2, 2)), jnp.ones((2, 2)))),
        TypeError,
        "carry must be the LSTMCarry .* got tuple. .* cell.initialize_carry",
    ),
    "carry of another batch": (
        lambda: lstm_step(LSTM.initialize_carry((3, 4))),
        ValueError,
        r"must have the batch of the carry, \(3,\), .* got the shape \(2, 4\)",
    ),
    "complex numbers for an LSTM": (
        lambda: lstm_of(jnp.ones((2, 3, 4), jnp.complex64)),
        TypeError,
        "inputs must be real, since .* got complex64",
    ),
}


def frozen(norm):
    jaxnorm.nnx.freeze_statistics(norm)
    return norm


def late_schedule(norm):
    norm.set_attributes(momentum=jaxnorm.warmup_momentum())
    norm(jnp.ones(SHAPE))


LSTM = jaxnorm.nnx.BatchNormLSTMCell(4, 2, max_steps=3, rngs=nnx.Rngs(0))


def lstm_step(carry):
    return nnx.eval_shape(lambda: nnx.clone(LSTM)(carry, jnp.ones((2, 4))))


def lstm_of(x):
    def run():
        cell = jaxnorm.nnx.BatchNormLSTMCell(4, 2, max_steps=3, rngs=nnx.Rngs(0))
        return nnx.RNN(cell)(x)

    return nnx.eval_shape(run)


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_run_it):
    make, error, message = BAD[case]
    with pytest.raises(error, match=message) as caught:
        make()
    assert caught.type is error  # no subclass, as are JAX's errors
