"""Normalization of a stream: its moments, exact for as long as it flows."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support.counting import count_all_reduces
from support.drawing import ones, place, zeros
from support.jitted import jitted
from support.modes import AXIS, MODES, draw_problem, few_modes, mesh_of
from support.refusals import refused
from support.tiers import matrix

import jaxnorm

SHAPES = {  # shape, feature axes
    "vectors": ((6, 5), -1),
    "images": ((4, 3, 2, 5), 3),
    "numbers": ((7,), ()),
    "each number of an observation": ((4, 3, 2), (1, 2)),
    "channels first": ((4, 5, 3), 1),
}


def norm(**options):
    return jitted(jaxnorm.running_norm, **{"update": True} | options)


def total(moments):
    """Count, mean and variance, of both parts."""
    values = [oracles.wide(value) for value in moments]
    return [value + rest for value, rest in zip(values[:3], values[3:], strict=True)]


def start(*sizes):
    return jaxnorm.init_running_moments(sizes)


def started(count, mean, var):
    zero = place(np.zeros(np.shape(mean)))
    count = place(np.full(np.shape(mean), count))
    return jaxnorm.RunningMoments(count, place(mean), place(var), zero, zero, zero)


def check(actual, expected, tolerance=1e-5):
    y, moments = actual
    for value, wanted in zip((y, *total(moments)), expected, strict=True):
        assert oracles.error(value, wanted) <= tolerance


@pytest.mark.parametrize(
    ("name", "kind"),
    matrix(
        [
            *((name, None if name == "numbers" else "bool") for name in SHAPES),
            *(("vectors", kind) for kind in (None, "weights", "examples", "empty")),
        ],
        often=[
            ("numbers", None),
            ("channels first", "bool"),
            ("vectors", "weights"),
            ("vectors", "empty"),
        ],
    ),
)
def test_a_stream_of_unequal_batches_is_one_batch(name, kind, rng, make_mask):
    """However it is cut, and with what means its parts have."""
    shape, feature_axes = SHAPES[name]
    sizes = tuple(shape[axis] for axis in np.ravel(feature_axes).astype(int))
    moments, expected = start(*sizes), (0, np.zeros(sizes), np.ones(sizes))
    for batch in range(3):
        x = rng.normal(10 * batch, 1 + batch, shape).astype(np.float32)
        mask = None if kind is None else make_mask(kind, shape)
        if kind is not None and batch == 1:
            x = np.where(np.broadcast_to(mask, shape) == 0, np.float32(np.nan), x)
        options = {"feature_axes": feature_axes}
        y, moments = norm(**options)(x, moments, mask=mask)
        wanted, *expected = oracles.running_norm(x, *expected, mask=mask, **options)
        check((y, moments), (wanted, *expected))
    still, same = norm(**options | {"update": False})(x, moments, mask=mask)
    chex.assert_trees_all_equal(same, moments)
    assert oracles.error(still, wanted) <= 1e-5


@few_modes
def test_over_devices(mode):
    """Parts with different means and masks, one of them empty, at a large mean."""
    x, mask, weight, *_ = draw_problem(np.random.default_rng(0))
    own = np.repeat(np.arange(8.0) % 5, 4)[:, None, None]
    x = place(oracles.wide(x) + 5 * own + 1e4)
    moments = started(7.0, np.full(5, 9990.0), np.full(5, 20.0))
    axis = {} if mode.startswith("jit") else {"axis_name": AXIS}

    def forward(x, mask, state):
        return jaxnorm.running_norm(x, state, update=True, mask=mask, **axis)

    y, new, dx = jax.device_get(
        MODES[mode](forward, params=0)(x, mask, weight, moments)
    )
    expected = oracles.running_norm(x, *total(moments), mask=mask)
    check((y, new), expected, 1e-6)
    std = np.sqrt(expected[-1] + 1e-8)
    assert oracles.error(dx, np.where(mask, oracles.wide(weight) / std, 0)) <= 1e-6


@pytest.mark.parametrize(("update", "number"), [(True, 2), (False, 0)])
def test_collectives(update, number):
    """Two where it learns, none backward, and none in inference."""

    def step(x, weight):
        def loss(x):
            options = {"update": update, "axis_name": AXIS}
            y, moments = jaxnorm.running_norm(x, start(5), **options)
            return jnp.sum(weight * y), moments

        return jax.grad(loss, has_aux=True)(x)

    x = jax.ShapeDtypeStruct((8, 5), jnp.float32)
    run = jax.shard_map(
        step, mesh=mesh_of(AxisType.Auto), in_specs=P(AXIS), out_specs=(P(AXIS), P())
    )
    assert count_all_reduces(jax.jit(run).lower(x, x).compile()) == number


def test_a_large_mean_from_the_first_batch_on(rng):
    """1e4 standard deviations, of which float32 loses half a thousandth."""
    moments, expected = start(3), (0, np.zeros(3), np.ones(3))
    for _ in range(2):
        x = rng.normal(1e4, 1, (256, 3)).astype(np.float32)
        y, moments = norm()(x, moments)
        wanted, *expected = oracles.running_norm(x, *expected)
        assert np.max(np.abs(oracles.wide(y) - wanted)) <= 2e-6
    _, mean, var = total(moments)
    assert np.max(np.abs(mean - expected[1])) <= 1e-6
    assert np.max(np.abs(var / expected[2] - 1)) <= 1e-6


@pytest.mark.parametrize("count", [2**24, 10**8])
def test_single_elements_of_a_long_stream_count(count, rng):
    """Also where they move a float32 by less than half a unit in the last place."""
    steps, mean, var = 2000, 1e4, float(np.float32(0.8))
    xs = rng.normal(mean, 1, (steps, 1, 16)).astype(np.float32)
    moments = started(count, np.full(16, mean), np.full(16, var))

    @jax.jit
    def run(moments, xs):
        def step(moments, x):
            return jaxnorm.running_norm(x, moments, update=True)[::-1]

        return jax.lax.scan(step, moments, xs)[0]

    counted, *actual = total(run(moments, xs))
    _, _, *expected = oracles.running_norm(xs[:, 0], count, mean, var)
    np.testing.assert_array_equal(counted, count + steps)
    for value, wanted, before in zip(actual, expected, (mean, var), strict=True):
        moved = np.max(np.abs(wanted - before))
        assert 0 < np.max(np.abs(value - wanted)) + 1e-30 <= 1e-3 * moved


@pytest.mark.usefixtures("x64")
def test_both_parts_count_for_wider_input(rng):
    """Moments in float32 are those of 14 digits that their two parts are the sum of."""
    moments = [place(rng.uniform(1, 3, 4)) for _ in range(3)]
    rests = [place(rng.uniform(-1e-7, 1e-7, 4)) for _ in range(3)]
    moments = jaxnorm.RunningMoments(*moments, *rests)
    x = rng.normal(size=(6, 4))
    for update in (True, False):
        y, _ = norm(update=update)(x, moments)
        wanted, *_ = oracles.running_norm(x, *total(moments), update=update)
        assert oracles.error(y, wanted) <= 1e-13


def test_the_past_is_forgotten(rng):
    """Under max_count, as in an exponential average with a momentum of 30 / (30 + 10).

    The count that came in weighs that much as well, whatever it was.
    """
    step = norm(max_count=30)
    moments = started(1e6, np.full(2, 50.0), np.full(2, 9.0))
    moments = moments._replace(count_rest=place(np.full(2, 0.01)))
    expected = total(moments)
    for _ in range(5):
        x = rng.normal(size=(10, 2)).astype(np.float32)
        y, moments = step(x, moments)
        wanted, *expected = oracles.running_norm(x, *expected, max_count=30)
        check((y, moments), (wanted, *expected))
    np.testing.assert_array_equal(moments.count, 40)
    for _ in range(60):
        y, moments = step(x, moments)
    assert np.max(np.abs(np.mean(y, 0))) < 1e-4 > abs(np.std(y) - 1)


def test_a_limit_between_numbers_of_a_narrow_count(rng):
    """bfloat16 has no 0.7; in two parts it does, nearly."""
    x = rng.normal(size=(2, 3)).astype(np.float32)
    moments = started(50.0, np.zeros(3), np.ones(3))
    moments = jax.tree.map(lambda v: v.astype(jnp.bfloat16), moments)
    y, _ = norm(max_count=0.7)(x, moments)
    wanted, *_ = oracles.running_norm(x, *total(moments), max_count=0.7)
    assert oracles.error(y, wanted) <= 1e-5


@pytest.mark.parametrize("update", [True, False])
def test_clipping_and_gradients(update, rng):
    """Moments are constants for the gradient of y, and have none themselves."""
    x = place(rng.normal(size=(64, 3)) * 3)
    moments = started(50.0, np.zeros(3), np.ones(3))
    weight = place(rng.normal(size=(64, 3)))

    @functools.partial(jax.jit, static_argnames="of")
    def gradients(x, moments, of):
        def loss(x, moments):
            result = jaxnorm.running_norm(x, moments, update=update, max_abs=1.5)
            if of == "y":
                return jnp.sum(weight * result[0])
            return sum(jnp.sum(leaf) for leaf in jax.tree.leaves(result[1]))

        return jax.grad(loss, (0, 1))(x, moments)

    y, *new = oracles.running_norm(x, *total(moments), update=update, max_abs=1.5)
    check(norm(update=update, max_abs=1.5)(x, moments), (y, *new))
    assert 0.05 < np.mean(np.abs(y) == 1.5) < 0.95
    inside = np.abs(y) < 1.5
    expected = np.where(inside, oracles.wide(weight) / np.sqrt(new[-1] + 1e-8), 0)
    dx, dmoments = gradients(x, moments, "y")
    assert oracles.error(dx, expected) <= 1e-5
    chex.assert_trees_all_equal(dmoments, jax.tree.map(jnp.zeros_like, moments))
    if update:
        for leaf in jax.tree.leaves(gradients(x, moments, "moments")):
            np.testing.assert_array_equal(leaf, 0)


def test_before_anything_was_seen_x_stays(rng):
    x = place(rng.normal(size=(4, 3)))
    y, _ = norm(update=False)(x, start(3))
    assert oracles.error(y, x) <= 1e-7
    mask = np.arange(3) != 1
    y, moments = norm()(x, start(3), mask=mask)
    assert oracles.error(y[:, 1], x[:, 1]) <= 1e-7
    np.testing.assert_array_equal(moments.count, np.where(mask, 4, 0))


def test_moments_of_nothing_may_be_anything(rng):
    x = place(rng.normal(size=(4, 3)))
    bad = place(np.full(3, np.nan))
    y, moments = norm()(x, start(3)._replace(mean=bad, var=bad, mean_rest=bad))
    expected = norm()(x, start(3))
    chex.assert_trees_all_equal((y, moments), expected)


def test_a_batch_that_is_not_finite_can_be_left_out(rng):
    x = rng.normal(size=(4, 3)).astype(np.float32)
    _, moments = norm()(x, start(3))
    expected, _ = norm(update=False)(x, moments)
    broken = np.where(np.arange(12).reshape(4, 3) == 5, np.float32(np.inf), x)
    y, new = norm(skip_nonfinite=True)(broken, moments)
    chex.assert_trees_all_equal(new, moments)
    np.testing.assert_array_equal(np.delete(y, 1, 0), np.delete(expected, 1, 0))
    _, new = norm()(broken, moments)
    assert not np.isfinite(new.mean[2])


def test_a_tree_is_each_of_its_arrays(rng):
    x = {
        "sensors": place(rng.normal(size=(6, 3))),
        "camera": (place(rng.normal(size=(6, 2, 2))), place(rng.normal(size=(6, 1)))),
    }
    moments = jax.tree.map(lambda leaf: start(leaf.shape[-1]), x)
    valid = jnp.arange(6) < 4
    masks = {"sensors": None, "camera": (valid[:, None, None], valid[:, None])}
    actual = norm()(x, moments, mask=masks)
    y, new = actual
    for pick in (
        lambda t: t["sensors"],
        *(lambda t, i=i: t["camera"][i] for i in (0, 1)),
    ):
        alone = norm()(pick(x), pick(moments), mask=pick(masks))
        chex.assert_trees_all_equal((pick(y), pick(new)), alone)
    shared = norm()(x, moments, mask={"sensors": None, "camera": valid[:1]})
    assert jax.tree.structure(shared) == jax.tree.structure(actual)


X = ones((4, 5))
BAD = {
    "integers": ((X.astype(jnp.int32), start(5)), {}, ("x", "int32", "astype")),
    "batch statistics": (
        (X, jaxnorm.init_batch_stats(5)),
        {},
        ("RunningMoments", "BatchStats", "init_running_moments((5,))"),
    ),
    "moments of other features": (
        (X, start(4)),
        {},
        ("moments.count", "(5,)", "(4,)", "feature_axes"),
    ),
    "one of another shape": (
        (X, start(5)._replace(var_rest=zeros(4))),
        {},
        ("moments.var_rest", "(5,)", "(4,)"),
    ),
    "a traced flag": (
        (X, start(5)),
        {"update": jax.device_put(True)},
        ("update", "bool"),
    ),
    "a negative bound": ((X, start(5)), {"max_abs": -1.0}, ("max_abs", "-1.0")),
    "a negative count": ((X, start(5)), {"max_count": -1}, ("max_count", "-1")),
    "a negative epsilon": ((X, start(5)), {"epsilon": -1.0}, ("epsilon", "-1.0")),
    "clipped complex": (
        (X.astype(jnp.complex64), start(5)),
        {"max_abs": 1.0},
        ("x", "real", "complex64"),
    ),
    "complex moments of real input": (
        (X, start(5)._replace(mean=zeros(5, jnp.complex64))),
        {},
        ("moments.mean", "real", "complex64"),
    ),
    "a mask of another size": (
        (X, start(5)),
        {"mask": ones((3, 1), bool)},
        ("mask", "(4, 5)", "(3, 1)"),
    ),
    "moments of another structure": (
        ({"a": X, "b": X}, {"a": start(5)}),
        {},
        ("moments", "structure", "init_running_moments(shape)"),
    ),
    "masks of another structure": (
        ({"a": X}, {"a": start(5)}),
        {"mask": {"b": X > 0}},
        ("mask", "structure"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_run_it):
    arguments, options, says = BAD[case]
    with refused(*says):
        jaxnorm.running_norm(*arguments, **{"update": True} | options)
