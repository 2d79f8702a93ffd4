"""Causal group norm: streams in parts, causality, and what prefixes have to be."""

import functools

import family_oracle
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from drawing import draw, place
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from jitted import jitted
from modes import AXIS, mesh_of
from refusals import refused

import jaxnorm

norm = jaxnorm.causal_group_norm
EPSILON = 0.03  # large enough to see where it is added
SHAPE, KEPT = (2, 6, 3, 4), (2, 2)
OPTIONS = {"num_groups": 2, "epsilon": EPSILON}


def of_all(x, mask, moments=None):
    return norm(x, moments, mask=mask, **OPTIONS)


def in_chunks(x, mask, moments=None):
    ys = []
    for start, stop in ((0, 2), (2, 6)):
        part = mask if mask is None else mask[:, start:stop]
        y, moments = of_all(x[:, start:stop], part, moments)
        ys.append(y)
    return jnp.concatenate(ys, 1), moments


def one_by_one(x, mask):
    """As in a loop over a stream, whose carry starts with nothing."""

    def step(moments, inputs):
        x, mask = inputs
        return of_all(x, mask, moments)[::-1]

    moments = jaxnorm.init_running_moments(KEPT, x.dtype)
    steps = jax.tree.map(lambda v: jnp.moveaxis(v, 1, 0)[:, :, None], (x, mask))
    moments, ys = jax.lax.scan(step, moments, steps)
    return jnp.moveaxis(ys[:, :, 0], 0, 1), moments


WAYS = {"chunks": in_chunks, "steps": one_by_one}


def draw_mask(rng, kind):
    """With steps of which nothing counts; the first ones of one example."""
    if kind is None:
        return None
    mask = rng.uniform(size=SHAPE) < 0.7
    mask[0, :2] = mask[1, 3] = False
    return jnp.asarray(np.where(mask, rng.uniform(0.5, 2, SHAPE), 0))


@functools.cache
def derivatives(way):
    """Values, and derivatives of them along a direction: first and second."""

    def loss(x, mask, weight):
        y, moments = way(x, mask)
        loss = jnp.sum(weight * y**2) + jnp.sum(jnp.sin(moments.mean + moments.var))
        return loss, (y, moments)

    @jax.jit
    def run(x, mask, weight, direction):
        def gradient(x):
            return jax.grad(loss, has_aux=True)(x, mask, weight)

        (first, (y, moments)), (second, forward) = jax.jvp(gradient, (x,), (direction,))
        both = zip(moments[:3], moments[3:], strict=True)
        return first, second, forward[0], y, *(value + rest for value, rest in both)

    return run


# The rest of the matrix is slow.
@pytest.mark.parametrize(
    ("way", "mask"),
    [
        ("chunks", "weights"),
        ("steps", None),
        pytest.param("chunks", None, marks=pytest.mark.slow),
        pytest.param("steps", "weights", marks=pytest.mark.slow),
    ],
)
def test_parts_are_the_whole(way, mask, rng):
    """Values, gradient, forward mode, and the Hessian along a direction."""
    x, weight, direction = (draw(rng, SHAPE, loc=loc) for loc in (3, 0, 0))
    mask = draw_mask(rng, mask)
    if mask is not None:
        mask = mask.astype(jnp.float32)
    arguments = x, mask, weight, direction
    expected = derivatives(of_all)(*arguments)
    actual = derivatives(WAYS[way])(*arguments)
    for value, wanted in zip(actual, expected, strict=True):
        assert oracle.error(value, wanted) <= 2e-6
    reference = family_oracle.causal_group_norm(x, mask=mask, **OPTIONS)
    assert oracle.error(actual[3], reference) <= 2e-6


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_parts_are_the_whole_in_float64(way, rng, x64):
    """Where rounding hides nothing; in float32 above."""
    drawn = (draw(rng, SHAPE, jnp.float64, loc=loc) for loc in (3, 0, 0))
    x, weight, direction = drawn
    arguments = x, draw_mask(rng, "weights"), weight, direction
    expected = derivatives(of_all)(*arguments)
    actual = derivatives(WAYS[way])(*arguments)
    for value, wanted in zip(actual, expected, strict=True):
        assert oracle.error(value, wanted) <= 1e-13


def test_moments_are_those_of_the_whole_sequence(rng):
    x, mask = draw(rng, SHAPE, loc=5), np.asarray(draw_mask(rng, "weights"))
    mask = mask.astype(np.float32)
    _, moments = jitted(of_all)(x, mask)
    for group in range(2):
        features = slice(2 * group, 2 * group + 2)
        part = x[..., features], mask[..., features]
        values, weights = (oracle.wide(v).reshape(2, -1) for v in part)
        count = weights.sum(-1)
        mean = (weights * values).sum(-1) / count
        var = (weights * (values - mean[:, None]) ** 2).sum(-1) / count
        for actual, wanted in zip(moments[:3], (count, mean, var), strict=True):
            assert actual.dtype == jnp.float32
            assert oracle.error(actual[:, group], wanted) <= 1e-6


def test_the_variance_is_that_of_the_prefix():
    """Not an average of the steps' variances, about their means or that of all.

    Both have been taken for it elsewhere, and both lack some of what is between steps.
    """
    x = np.random.default_rng(0).normal(size=(1, 6, 4))
    y, _ = jitted(norm)(place(x))
    expected = family_oracle.causal_group_norm(x)
    assert oracle.error(y, expected) <= 1e-6

    def average(values):
        return np.cumsum(values, 1) / np.arange(1, 7).reshape(1, 6, 1)

    mean = x.mean(-1, keepdims=True)
    within = average(x.var(-1, keepdims=True))
    as_it_went = average(((x - average(mean)) ** 2).mean(-1, keepdims=True))
    for var in within, as_it_went:
        other = (x - average(mean)) / np.sqrt(var + 1e-6)
        assert np.max(np.abs(other - expected)) > 0.05


@pytest.mark.parametrize("masked", [False, True])
def test_no_step_sees_a_later_one(masked, rng):
    """To the last bit; and where later steps are not finite."""
    x = draw(rng, SHAPE, loc=3)
    mask = draw_mask(rng, "weights").astype(jnp.float32) if masked else None
    before, _ = jitted(of_all)(x, mask)
    for bad in (1e4, 1e30, np.nan, np.inf):
        after, _ = jitted(of_all)(x.at[:, 4:].set(bad), mask)
        np.testing.assert_array_equal(after[:, :4], before[:, :4])

    def early(x):
        return jnp.sum(jnp.sin(of_all(x, mask)[0][:, :4]))

    gradient = jax.jit(jax.grad(early))(x)
    assert np.any(np.asarray(gradient[:, 3])) and not np.any(np.asarray(gradient[:, 4]))


SEQUENCES = {
    "level": lambda rng, shape: rng.normal(1e4, 1, shape),
    "after silence": lambda rng, shape: np.where(
        np.arange(shape[1])[:, None] < 3, 0, rng.normal(1e4, 1, shape)
    ),
    "drift": lambda rng, shape: rng.normal(
        1e4 + 10 * np.arange(shape[1])[:, None], 1, shape
    ),
    "outlier": lambda rng, shape: rng.normal(
        np.where(np.arange(shape[1]) == 1, 1e6, 0)[:, None], 1, shape
    ),
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_large_means(kind, rng):
    """1e4 standard deviations: no digit of the output is lost, however it moves."""
    x = place(SEQUENCES[kind](rng, (2, 96, 4)))
    for groups in (1, 4):
        y, _ = jitted(norm, num_groups=groups)(x)
        expected = family_oracle.causal_group_norm(x, num_groups=groups)
        assert np.max(np.abs(oracle.wide(y) - expected)) <= 2e-6


def test_a_stream_goes_on_beyond_what_float32_counts(rng):
    """Steps of one element each, after 2**24 of them: none is lost."""
    start = jaxnorm.init_running_moments((1, 1))
    level = jnp.full((1, 1), 1e4)
    start = start._replace(count=jnp.full((1, 1), 2.0**24), mean=level)
    x = place(rng.normal(1e4, 1, (1, 100, 1)))
    _, whole = jitted(norm)(x, start)
    _, by_step = jax.jit(
        lambda x, start: jax.lax.scan(
            lambda moments, x: norm(x[None], moments)[::-1], start, x[0, :, None]
        )[::-1]
    )(x, start)
    values = oracle.wide(x) - 1e4
    for moments in whole, by_step:
        count, mean, var = (
            float(value.item()) + float(rest.item())
            for value, rest in zip(moments[:3], moments[3:], strict=True)
        )
        assert count == 2**24 + 100
        moved = values.sum() / count
        assert abs(mean - 1e4 - moved) <= 1e-5 * abs(moved)
        added = 2**24 + (values**2).sum() - count * moved**2
        assert abs(var - added / count) <= 1e-11


def test_until_something_counts_it_is_the_bias(rng):
    """And has no gradient; padding after that leaves the moments as they are."""
    x = draw(rng, SHAPE, loc=3)
    mask = np.ones((2, 6, 1, 1), bool)
    mask[0, :3] = mask[1, 4:] = False
    x = jnp.where(mask, x, jnp.nan)
    scale, bias = draw(rng, 4, loc=1), draw(rng, 4)

    @jax.jit
    def run(x, scale, bias):
        def loss(x, scale, bias):
            y, moments = norm(x, None, scale, bias, mask=mask, **OPTIONS)
            return jnp.sum(y**2), (y, moments)

        return jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)

    gradients, (y, moments) = run(x, scale, bias)
    np.testing.assert_array_equal(y[0, :3], np.broadcast_to(bias, (3, 3, 4)))
    assert all(np.all(np.isfinite(g)) for g in gradients)
    assert not np.any(np.asarray(gradients[0])[~np.broadcast_to(mask, SHAPE)])
    _, shorter = jitted(of_all)(x[1:, :4], None)
    for value, wanted in zip(moments, shorter, strict=True):
        np.testing.assert_allclose(value[1:], wanted, rtol=1e-6, atol=1e-6)
    _, same = jitted(of_all)(x[1:, 4:], mask[1:, 4:], shorter)
    jax.tree.map(np.testing.assert_array_equal, same, shorter)
    _, same = jitted(of_all)(x[1:, :0], None, shorter)  # a chunk without a step
    jax.tree.map(np.testing.assert_array_equal, same, shorter)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_carry_keeps_its_dtypes(dtype, rng):
    """That of a scan in the dtype of the moments, whatever x has."""
    x = draw(rng, (6, 2, 1, 3, 4), jnp.bfloat16)
    start = jaxnorm.init_running_moments(KEPT, dtype)

    def step(moments, x):
        return norm(x, moments, **OPTIONS)[::-1]

    end, y = jax.jit(functools.partial(jax.lax.scan, step))(start, x)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == dtype for leaf in end)


def test_one_sequence_under_vmap_is_as_in_the_batch(rng):
    x = draw(rng, SHAPE)
    expected = jitted(of_all)(x, None)
    alone = functools.partial(norm, time_axis=0, reduction_axes=(1, 2), **OPTIONS)
    actual = jax.jit(jax.vmap(alone))(x)
    for value, wanted in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


def on_devices(mode, run, x, moments):
    """A step over the space of x, divided over eight devices; moments are shared."""
    kind = AxisType.Explicit if "Explicit" in mode else AxisType.Auto
    mesh, data = mesh_of(kind), P(None, None, AXIS)
    if mode.startswith("jit"):
        spec = P(None, AXIS) if "time" in mode else data
        x = jax.device_put(x, NamedSharding(mesh, spec))
        moments = jax.device_put(moments, NamedSharding(mesh, P()))
        with jax.set_mesh(mesh):
            return jax.jit(functools.partial(run, axis_name=None))(x, moments)
    mapped = jax.shard_map(
        functools.partial(run, axis_name=AXIS),
        mesh=mesh,
        in_specs=(data, P()),
        out_specs=(data, P(), (data, P())),
        check_vma=mode == "checked",
    )
    return jax.jit(mapped)(x, moments)


# One that maps and one that knows shardings by type; the slow tier has all.
FEW = "checked", "jit, Explicit, time"
MODES = *FEW, "unchecked", "jit, Explicit", "jit, time"


@pytest.mark.parametrize(
    "mode",
    [m if m in FEW else pytest.param(m, marks=pytest.mark.slow) for m in MODES],
)
def test_a_stream_over_devices(mode, rng):
    """y, the new moments, and derivatives along directions in both arguments."""
    x = draw(rng, (2, 8, 16, 4), loc=3)
    _, moments = jitted(of_all)(draw(rng, SHAPE), None)
    dmoments = jax.tree.map(jnp.zeros_like, moments)
    dmoments = dmoments._replace(mean=draw(rng, KEPT), var=draw(rng, KEPT))

    def run(x, moments, axis_name):
        def call(x, moments):
            return norm(x, moments, axis_name=axis_name, **OPTIONS)

        (y, new), tangents = jax.jvp(call, (x, moments), (jnp.sin(x), dmoments))
        return y, new, tangents

    expected = jax.jit(functools.partial(run, axis_name=None))(x, moments)
    actual = on_devices(mode, run, x, moments)
    for value, wanted in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert oracle.error(value, wanted) <= 1e-5


X = jnp.ones((4, 6, 3))
MOMENTS = jaxnorm.init_running_moments((4, 1))
BAD = {
    "no such time": ({"time_axis": 3}, ("time_axis", "3", "rank 3")),
    "several times": ({"time_axis": (0, 1)}, ("time_axis", "one axis")),
    "time is the feature": ({"time_axis": 2}, ("time_axis", "feature axis", "2")),
    "sequences without features": (
        {"x": X[..., 0]},
        ("time_axis", "feature axis", "x[..., None]"),
    ),
    "time is reduced": (
        {"reduction_axes": (1, 2)},
        ("reduction_axes", "time_axis=1", "group_norm"),
    ),
    "time is first": (
        {"time_axis": 0},
        ("reduction_axes", "time_axis=0", "rank 3", "reduction_axes=(1, 2)"),
    ),
    "moments of a batch": (
        {"moments": jaxnorm.Moments(*MOMENTS[:3])},
        ("moments", "RunningMoments", "init_running_moments((4, 1))"),
    ),
    "moments of features": (
        {"moments": jaxnorm.init_running_moments(3)},
        ("moments", "(4, 1)", "(3,)", "(4, 6, 3)", "init_running_moments((4, 1))"),
    ),
    "moments of other groups": (
        {"moments": MOMENTS, "num_groups": 3},
        ("moments", "(4, 3)", "(4, 1)"),
    ),
    "complex moments": (
        {"moments": MOMENTS._replace(mean=MOMENTS.mean.astype(jnp.complex64))},
        ("moments.mean", "real", "complex64"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_run_it):
    bad, says = BAD[case]
    with refused(*says):
        norm(**{"x": X} | bad)
