"""Reversible instance norm: series, and forecasts brought back to where they were."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.drawing import draw, ones, place
from support.jitted import jitted
from support.modes import mesh_of
from support.refusals import refused
from support.tiers import diagonal, matrix

import jaxnorm

EPSILON = 0.03  # large enough to see where it is added
CASES = {  # shape, options, sizes of the features
    "series": ((4, 6, 3), {}, (3,)),
    "offset": ((4, 6, 3), {"scale_offset": 1.0}, (3,)),
    "time first": ((6, 3), {"time_axis": 0}, (3,)),
    "time last": ((4, 3, 6), {"time_axis": -1, "feature_axes": 1}, (3,)),
    "of several places": ((2, 6, 4, 3), {"feature_axes": (2, 3)}, (4, 3)),
}


@functools.partial(
    jax.jit,
    static_argnames=(
        "time_axis",
        "feature_axes",
        "axis_name",
        "epsilon",
        "scale_offset",
    ),
)
def there_and_back(x, z, scale=None, bias=None, **options):
    """y, and what undo makes of z and of y."""
    options = {"epsilon": EPSILON} | options
    y, undo = jaxnorm.reversible_instance_norm(x, scale, bias, **options)
    return y, undo(z), undo(y)


def draw_problem(rng, case, length=9):
    """x, z of another length, scale and bias."""
    shape, options, features = CASES[case]
    z_shape = list(shape)
    z_shape[options.get("time_axis", 1)] = length
    scale, bias = rng.uniform(0.5, 2, features), rng.normal(size=features)
    x = draw(rng, shape, loc=3, std=2)
    return x, draw(rng, z_shape), place(scale), place(bias)


@pytest.mark.parametrize(
    ("case", "affine"),
    matrix(
        itertools.product(CASES, (True, False)),
        often=diagonal(CASES, (True, False)),
    ),
)
def test_values(case, affine, rng):
    x, z, *params = draw_problem(rng, case)
    options, params = CASES[case][1], params if affine else ()
    y, forecast, back = there_and_back(x, z, *params, **options)
    expected = oracles.reversible_instance_norm(
        x, z, *params, epsilon=EPSILON, **options
    )
    for actual, wanted in zip((y, forecast, back), (*expected, x), strict=True):
        assert oracles.error(actual, wanted) <= 2e-6


@pytest.mark.parametrize("kind", ["bool", "weights"])
def test_missing_values(kind, rng, make_mask):
    x, z, *params = draw_problem(rng, "series")
    mask = np.array(np.broadcast_to(make_mask(kind, x.shape), x.shape))
    mask[0, :, 1] = 0  # a series of which nothing is there
    x = np.where(mask == 0, np.float32(np.nan), x)
    y, forecast, back = there_and_back(x, z, *params, mask=mask)
    wanted, wanted_forecast = oracles.reversible_instance_norm(
        x, z, *params, epsilon=EPSILON, mask=mask
    )
    assert oracles.error(y, wanted) <= 2e-6
    assert oracles.error(forecast, wanted_forecast) <= 2e-6
    there = mask != 0
    assert oracles.error(np.where(there, back, 0), np.where(there, x, 0)) <= 2e-6


@pytest.mark.parametrize("masked", [True, False])
def test_gradients_flow_through_y_and_undo(masked, rng, make_mask):
    """Along a direction in all arguments: as numerically, in float64."""
    arguments = draw_problem(rng, "series")
    mask = np.asarray(make_mask("bool", arguments[0].shape)) if masked else None
    weights = [np.asarray(draw(rng, value.shape)) for value in arguments[:2]]
    directions = [draw(rng, argument.shape) for argument in arguments]

    def total(results, sum=np.sum):
        return sum(weights[0] * results[0]) + sum(weights[1] * results[1])

    def loss(*arguments):
        return total(there_and_back(*arguments, mask=mask)[:2], jnp.sum)

    def expected(*arguments):
        options = {"epsilon": EPSILON, "mask": mask}
        return total(oracles.reversible_instance_norm(*arguments, **options))

    gradients = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*arguments)
    _, forward = jax.jit(lambda a, d: jax.jvp(loss, a, d))(
        tuple(arguments), tuple(directions)
    )
    slope = sum(
        np.sum(oracles.wide(g) * d) for g, d in zip(gradients, directions, strict=True)
    )
    wanted = oracles.directional(expected, arguments, directions)
    assert oracles.error(slope, wanted) <= 1e-4 >= oracles.error(forward, wanted)


def test_undo_goes_through_transformations(rng):
    """As an argument, a result and a carry; none of them traces anew."""
    x, z, *params = draw_problem(rng, "series")
    norm = jitted(jaxnorm.reversible_instance_norm)
    _, undo = norm(x, *params)
    expected, traces = undo(z), []
    assert isinstance(undo, jaxnorm.Denormalizer)

    @jax.jit
    def apply(undo, z):
        traces.append(z)
        return undo(z)

    apply(undo, z)
    _, again = norm(x, *params)
    chex.assert_trees_all_close(apply(again, z), expected, rtol=1e-5, atol=1e-5)
    assert len(traces) == 1

    alone = functools.partial(jaxnorm.reversible_instance_norm, time_axis=0)
    _, undos = jax.jit(jax.vmap(alone, in_axes=(0, None, None)))(x, *params)
    mapped = jax.jit(jax.vmap(lambda undo, z: undo(z)))(undos, z)
    chex.assert_trees_all_close(mapped, expected, rtol=1e-5, atol=1e-5)

    def step(undo, z):
        return undo, undo(z[:, None])[:, 0]

    _, ys = jax.jit(functools.partial(jax.lax.scan, step))(undo, jnp.moveaxis(z, 1, 0))
    chex.assert_trees_all_close(jnp.moveaxis(ys, 0, 1), expected, rtol=1e-5, atol=1e-5)


def test_level_and_spread_of_a_series_pass_through(rng):
    """A forecast of a x + b is a times that of x, plus b: the point of it."""
    x, z, *params = draw_problem(rng, "series")

    def forecast(x):
        y, undo = jaxnorm.reversible_instance_norm(x, *params, epsilon=0.0)
        return undo(jnp.tanh(y[:, -3:]) * z[:, :3])

    run = jax.jit(forecast)
    moved = run(place(7 * oracles.wide(x) - 20))
    assert oracles.error(moved, 7 * oracles.wide(run(x)) - 20) <= 1e-5


def test_a_constant_series_without_epsilon(rng):
    """It has no spread to give to a forecast, nor a gradient of it."""
    x, z, *params = draw_problem(rng, "series")

    def forecast(x, z):
        y, undo = jaxnorm.reversible_instance_norm(x, *params, epsilon=0.0)
        return jnp.sum(undo(z)), (y, undo(z))

    run = jax.jit(jax.grad(forecast, (0, 1), has_aux=True))
    (dx, dz), (y, restored) = run(jnp.full_like(x, 3.0), z)
    np.testing.assert_array_equal(y, np.broadcast_to(params[1], y.shape))
    np.testing.assert_array_equal(restored, 3)
    np.testing.assert_array_equal(dz, 0)
    np.testing.assert_allclose(dx, z.shape[1] / x.shape[1], rtol=1e-6)


def test_a_large_mean(rng):
    """1e4 standard deviations: y as exact as ever, and back to the last digits of x."""
    x = place(rng.normal(1e4, 1, (4, 64, 3)))
    y, _, back = there_and_back(x, x)
    wanted, _ = oracles.reversible_instance_norm(x, x, epsilon=EPSILON)
    assert np.max(np.abs(oracles.wide(y) - wanted)) <= 2e-6
    assert np.max(np.abs(oracles.wide(back) - oracles.wide(x))) <= 2e-3


@pytest.mark.parametrize(
    ("masked", "mode"),
    matrix(
        itertools.product((True, False), ("jit", "shard_map")),
        often=[(True, "shard_map"), (True, "jit")],
    ),
)
def test_time_divided_over_devices(masked, mode, rng):
    x, scale, bias = draw(rng, (4, 16, 3), loc=5), draw(rng, 3, loc=2), draw(rng, 3)
    z = draw(rng, (4, 8, 3))
    mask = np.asarray(rng.uniform(size=x.shape) < 0.6)
    mask[:, 4:8] = False  # nothing on two devices
    mask = mask if masked else np.ones_like(mask)
    expected = there_and_back(x, z, scale, bias, mask=mask)
    mesh, time = mesh_of(AxisType.Auto), P(None, "batch")

    def run(x, z, mask, axis_name=None):
        mask = mask if masked else None
        return there_and_back(x, z, scale, bias, mask=mask, axis_name=axis_name)

    if mode == "jit":
        arguments = jax.device_put((x, z, mask), NamedSharding(mesh, time))
        actual = jax.jit(run)(*arguments)
    else:
        run = functools.partial(run, axis_name="batch")
        mapped = jax.shard_map(run, mesh=mesh, in_specs=time, out_specs=time)
        actual = jax.jit(mapped)(x, z, mask)
    for value, wanted in zip(actual, expected, strict=True):
        assert oracles.error(value, wanted) <= 1e-5


def test_half_precision_is_rounded_once(rng):
    x, z, *params = (v.astype(jnp.bfloat16) for v in draw_problem(rng, "series"))
    wide = [v.astype(jnp.float32) for v in (x, z, *params)]
    narrow, expected = there_and_back(x, z, *params)[:2], there_and_back(*wide)[:2]
    for actual, wanted in zip(narrow, expected, strict=True):
        assert actual.dtype == jnp.bfloat16
        unit = 0.501 * 2.0**-7 * np.abs(oracles.wide(wanted)) + 1e-5
        assert np.all(np.abs(oracles.wide(actual) - oracles.wide(wanted)) <= unit)


X = ones((4, 6, 3))
BAD = {
    "integers": ({"x": X.astype(jnp.int32)}, ("x", "int32", "astype")),
    "no such time": ({"time_axis": 3}, ("time_axis", "3", "rank 3")),
    "several times": ({"time_axis": (0, 1)}, ("time_axis", "one axis")),
    "time is a feature": ({"time_axis": 2}, ("time_axis", "feature_axes", "-1")),
    "series without features": (
        {"x": X[..., 0]},
        ("time_axis", "feature_axes", "x[..., None]"),
    ),
    "a scale of other features": ({"scale": ones(4)}, ("scale", "(3,)", "(4,)")),
    "a mask of another length": (
        {"mask": ones((4, 5, 1), bool)},
        ("mask", "(4, 6, 3)", "(4, 5, 1)"),
    ),
    "a negative epsilon": ({"epsilon": -1.0}, ("epsilon", "-1.0")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_run_it):
    bad, says = BAD[case]
    with refused(*says):
        jaxnorm.reversible_instance_norm(**{"x": X} | bad)


@pytest.mark.parametrize(
    ("z", "says"),
    [
        (ones((5, 6, 3)), ("z", "mean", "(4, 1, 3)", "(5, 6, 3)")),
        (ones((6, 3)), ("z", "(4, 1, 3)", "(6, 3)")),
        (ones((4, 6, 3), jnp.int32), ("z", "int32", "astype")),
    ],
)
def test_bad_forecasts(z, says, as_users_run_it):
    _, undo = jaxnorm.reversible_instance_norm(X)
    with refused(*says):
        undo(z)


def test_a_real_forecast_of_complex_series(as_users_run_it):
    _, undo = jaxnorm.reversible_instance_norm(X.astype(jnp.complex64))
    with refused("mean", "complex64", "float32", "would lose"):
        undo(X)
