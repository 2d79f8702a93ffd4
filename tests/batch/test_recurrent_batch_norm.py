"""Recurrent batch norm: one row of the statistics for each time step."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw, draw_stats, place
from support.jitted import jitted
from support.refusals import refused

import jaxnorm

STEPS = 3


@pytest.fixture
def stats(rng):
    return draw_stats(rng, (STEPS, 5))


def train(x, stats, step, mask=None, **options):
    options = {"use_running_average": False, "momentum": 0.8} | options
    return jitted(jaxnorm.recurrent_batch_norm, **options)(x, stats, step, mask=mask)


def row_of(tree, row):
    """A row of each leaf, without compiling."""
    return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[row]), tree)


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("step", [0, 1, 2, 3, 100])
def test_only_the_row_of_the_step_moves(step, counted, rng, stats):
    """Steps beyond the last have the last one's."""
    x, row = draw(rng, (8, 5), loc=1), min(step, STEPS - 1)
    if counted:
        stats = jaxnorm.CountedBatchStats(*stats, place(np.arange(3)))
    y, new = jax.device_get(train(x, stats, step))
    own = row_of(stats, row)
    options = {"use_running_average": False, "momentum": 0.8}
    expected, moved = jitted(jaxnorm.batch_norm, **options)(x, own)
    stats = jax.device_get(stats)
    assert oracles.error(y, expected) <= 1e-5
    for old, value, wanted in zip(stats, new, moved, strict=True):
        assert oracles.error(value[row], wanted) <= 1e-5
        others = np.arange(STEPS) != row
        np.testing.assert_array_equal(value[others], old[others])
        assert np.all(value[row] != old[row])


def test_inference_uses_the_row_of_the_step(rng, stats):
    x = draw(rng, (8, 5))
    for step in range(STEPS + 2):
        y, _ = train(x, stats, step, use_running_average=True)
        own = row_of(stats, min(step, STEPS - 1))
        expected, _ = jitted(jaxnorm.batch_norm, use_running_average=True)(x, own)
        assert oracles.error(y, expected) <= 1e-6


def test_the_counter_of_a_scan_and_sequences_of_unequal_length(rng):
    """The third step has no sequence left, so its row stays as it was."""
    x, lengths = draw(rng, (4, 8, 5), loc=1), place([1, 2, 2, 2, 1, 2, 1, 1], int)
    going = np.arange(4)[:, None] < np.asarray(lengths)
    x = place(np.where(going[..., None], x, np.nan))
    start = jaxnorm.init_recurrent_stats(4, 5, counted=True)

    @jax.jit
    def run(x, stats):
        def step(carry, x):
            stats, t = carry
            mask = (t < lengths)[:, None]
            y, stats = train(x, stats, t, mask=mask)
            return (stats, t + 1), y

        (stats, _), y = jax.lax.scan(step, (stats, jnp.int32(0)), x)
        return y, stats

    y, new = jax.device_get(run(x, start))
    x, start = jax.device_get((x, start))
    for t in range(4):
        own = jax.tree.map(lambda leaf: leaf[t], start)  # noqa: B023
        mask = going[t, :, None]
        wanted = oracles.batch_norm(x[t], own.mean, own.var, mask=mask, momentum=0.8)
        for value, target in zip((y[t], new.mean[t], new.var[t]), wanted, strict=True):
            assert oracles.error(value, target) <= 1e-5
    np.testing.assert_array_equal(new.count, [1, 1, 0, 0])
    np.testing.assert_array_equal(new.var[2:], 1)


@pytest.mark.parametrize("counted", [True, False])
def test_initial_statistics(counted):
    stats = jaxnorm.init_recurrent_stats(3, (2, 4), jnp.float16, counted=counted)
    assert stats.mean.shape == stats.var.shape == (3, 2, 4)
    assert stats.mean.dtype == stats.var.dtype == jnp.float16
    np.testing.assert_array_equal(stats.mean, 0)
    np.testing.assert_array_equal(stats.var, 1)
    if counted:
        np.testing.assert_array_equal(stats.count, np.zeros(3))


def test_a_negative_step(rng, stats, as_users_run_it):
    with refused("step", "at least 0", "-1"):
        jaxnorm.recurrent_batch_norm(
            draw(rng, (8, 5)), stats, -1, use_running_average=True
        )
