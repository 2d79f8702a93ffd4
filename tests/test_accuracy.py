"""Accuracy of normalization where means are large, and statistics poisoned."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw, place

import jaxnorm

train = functools.partial(jaxnorm.batch_norm, use_running_average=False)
cold = jaxnorm.init_batch_stats


@functools.cache
def train_jitted(fast):
    return jax.jit(functools.partial(train, momentum=0.0, use_fast_variance=fast))


def offset_batch(rng, ratio):
    std = np.geomspace(0.1, 10, 8)
    mean = ratio * std * np.resize([1, -1], 8)
    return mean, std, draw(rng, (256, 8), loc=mean, std=std)


@pytest.mark.parametrize(
    "running, fast, ratio, tolerance",
    [
        (running, fast, ratio, tolerance)
        for running, fast, ratios, tolerance in [
            ("warm", True, (0, 1, 10, 1e2, 1e3, 1e4), 1e-5),
            ("warm", False, (0, 1, 10, 1e2, 1e3, 1e4), 1e-5),
            ("cold", False, (0, 1, 10, 1e2, 1e3, 1e4), 1e-5),
            ("cold", True, (0, 1, 10), 5e-4),
            # The rounding of a sum of 256 squares, each 900 times the variance.
            ("cold", True, (30,), 2e-3),
        ]
        for ratio in ratios
    ],
)
def test_accuracy(running, fast, ratio, tolerance, rng):
    mean, std, x = offset_batch(rng, ratio)
    stats = cold((8,))
    if running == "warm":
        near = mean + rng.uniform(-1, 1, 8) * std
        stats = jaxnorm.BatchStats(place(near), place(std**2))
    expected, _, var = oracles.batch_norm(x, *stats, momentum=0)
    y, new = train_jitted(fast)(x, stats)
    assert np.max(np.abs(oracles.wide(y) - expected)) <= tolerance
    assert np.max(np.abs(oracles.wide(new.var) / var - 1)) <= tolerance


@pytest.mark.parametrize("norm", ["batch", "layer", "group", "instance"])
def test_two_passes_over_a_number_that_is_no_power_of_two(norm, rng):
    """The division by it rounds, in all kernels that subtract the mean alike.

    Compiled as for users, XLA for CPUs of jax 0.11 and 0.12 divided twice.
    """
    x = draw(rng, (2, 8, 8, 320), loc=1e4)
    if norm == "batch":
        y, _ = train_jitted(False)(x, cold((320,)))
        expected, _, _ = oracles.batch_norm(x, *cold((320,)))
    else:
        options = {"num_groups": 32} if norm == "group" else {}
        function = getattr(jaxnorm, f"{norm}_norm")
        y = jax.jit(functools.partial(function, **options))(x)
        expected = getattr(oracles, f"{norm}_norm")(x, **options)
    assert np.max(np.abs(oracles.wide(y) - expected)) <= 1e-5


def stream_in_chunks(x):
    """Each step as `causal_group_norm` makes it of three chunks."""
    moments, ys = None, []
    for part in (x[:, :2], x[:, 2:3], x[:, 3:]):
        y, moments = jaxnorm.causal_group_norm(part, moments)
        ys.append(y)
    return jnp.concatenate(ys, 1)


def stream_of_batches(x):
    """Each step as `running_norm` makes it, in a loop."""

    def update(moments, x):
        return jaxnorm.running_norm(x, moments, update=True)[::-1]

    start = jaxnorm.init_running_moments(x.shape[-1])
    return jax.lax.scan(update, start, jnp.moveaxis(x, 1, 0))[1]


def batches_beside_oracle(x):
    """The same in float64."""
    moments, ys = (0, 0, 1), []
    for part in np.moveaxis(oracles.wide(x), 1, 0):
        y, *moments = oracles.running_norm(part, *moments)
        ys.append(y)
    return np.stack(ys)


@pytest.mark.parametrize(
    "shape, stream, expected",
    [
        ((2, 6, 3, 4), stream_in_chunks, oracles.causal_group_norm),
        ((24, 3, 16), stream_of_batches, batches_beside_oracle),
    ],
    ids=["causal", "running"],
)
def test_all_kernels_subtract_the_same_mean_of_a_stream(shape, stream, expected, rng):
    """A quotient that XLA contracts with a sum, in some kernels alone, is another mean.

    Compiled as for users, one draw in 20 was off by the last digit of the mean.
    """
    stream = jax.jit(stream)
    for x in draw(rng, (60, *shape), loc=1e4):
        assert np.max(np.abs(oracles.wide(stream(x)) - expected(x))) <= 2e-6


@pytest.mark.parametrize("ratio", [1e2, 1e3, 1e4, 1e6])
def test_a_cold_start_never_explodes(ratio, rng):
    _, _, x = offset_batch(rng, ratio)
    y, new = train_jitted(True)(x, cold((8,)))
    assert np.max(np.abs(np.asarray(y))) < 10  # which NaN is not
    assert np.all(np.isfinite(new.mean)) and np.all(np.isfinite(new.var))
    assert np.all(np.asarray(new.var) > 0)


@pytest.mark.parametrize("far", [1e3, 1e8, 1e12, 1e30])
def test_two_passes_do_not_depend_on_the_running_mean(far, rng):
    x = draw(rng, (256, 8))
    stats = jaxnorm.BatchStats(place(np.full(8, far)), place(np.ones(8)))
    expected, _, var = oracles.batch_norm(x, *cold((8,)), momentum=0)
    y, new = train_jitted(False)(x, stats)
    assert np.max(np.abs(oracles.wide(y) - expected)) <= 1e-5
    assert np.max(np.abs(oracles.wide(new.var) / var - 1)) <= 1e-5


def test_poisoned_statistics_do_not_reach_the_output(rng):
    x, weight = draw(rng, (16, 5), loc=1), draw(rng, (16, 5))
    bad = place([np.nan, np.inf, -np.inf, 1e30, 0])
    zeros, ones = place(np.zeros(5)), place(np.ones(5))

    @jax.jit
    def step(x, stats):
        y, pullback, new = jax.vjp(lambda x: train(x, stats), x, has_aux=True)
        return (y, *pullback(weight)), new

    healthy, _ = step(x, cold((5,)))
    for stats in (
        jaxnorm.BatchStats(bad, ones),
        jaxnorm.BatchStats(zeros, bad),
        jaxnorm.BatchStats(bad, bad),
    ):
        chex.assert_trees_all_close(step(x, stats)[0], healthy, atol=1e-6)
        assert np.all(np.isfinite(np.asarray(step(x, stats)[1].mean)[3:]))
