"""Running statistics over many steps: momentum, counts, dtypes, state."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw, draw_stats, place
from support.tiers import matrix

import jaxnorm

pytestmark = pytest.mark.usefixtures("annotations_checked")

train = functools.partial(jaxnorm.batch_norm, use_running_average=False)
train_jitted = jax.jit(train, static_argnames=("momentum", "skip_nonfinite"))
cold = jaxnorm.init_batch_stats


@pytest.mark.parametrize("counted", [False, True])
def test_momentum_may_be_traced(counted, rng):
    x, stats = draw(rng, (8, 5)), cold((5,), counted=counted)
    traced = jax.jit(lambda m: train(x, stats, momentum=m)[1])
    chex.assert_trees_all_close(
        traced(0.75), train_jitted(x, stats, momentum=0.75)[1], atol=1e-5
    )


def test_cumulative_mean_in_a_scan(rng):
    batches = draw(rng, (7, 16, 5), loc=2, std=3)

    def step(stats, x):
        y, stats = train(x, stats, momentum=lambda count: count / (count + 1))
        return stats, y

    stats, ys = jax.jit(functools.partial(jax.lax.scan, step))(
        cold((5,), counted=True), batches
    )
    wide = np.asarray(batches, np.float64)
    assert stats.count == 7
    assert oracles.error(stats.mean, wide.mean((0, 1))) <= 1e-5
    assert oracles.error(stats.var, wide.var(1).mean(0)) <= 1e-5
    for x, y in zip(wide, ys, strict=True):
        expected, *_ = oracles.batch_norm(x, np.zeros(5), np.ones(5))
        assert oracles.error(y, expected) <= 1e-5


@pytest.mark.parametrize("empty", ["examples", "features", "mask"])
def test_an_empty_batch_is_no_update(empty, rng):
    examples, features = (
        0 if empty == "examples" else 8,
        0 if empty == "features" else 5,
    )
    stats = jaxnorm.CountedBatchStats(*draw_stats(rng, features), place(3.0))
    x = draw(rng, (examples, features))
    mask = np.zeros((8, 1), bool) if empty == "mask" else None
    _, new = train_jitted(x, stats, mask=mask)
    chex.assert_trees_all_equal(new, stats)


@pytest.mark.parametrize(
    "dtype, stats_dtype, counted",
    matrix(
        itertools.product(
            (jnp.float32, jnp.bfloat16),
            (jnp.float32, jnp.float16, jnp.bfloat16),
            (False, True),
        ),
        often=[
            (jnp.float32, jnp.float32, True),
            (jnp.bfloat16, jnp.float32, False),
            (jnp.float32, jnp.float16, True),
            (jnp.bfloat16, jnp.bfloat16, False),
        ],
    ),
)
def test_one_trace_and_the_same_state(dtype, stats_dtype, counted, rng):
    chex.clear_trace_counter()  # it counts by name, over all rows of the table

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(x, stats):
        return train(x, stats, jnp.ones(5), momentum=0.9)

    stats = cold((5,), dtype=stats_dtype, counted=counted)
    for _ in range(3):
        _, new = step(draw(rng, (8, 5), dtype), stats)
        chex.assert_trees_all_equal_structs(new, stats)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, stats)
        stats = new


def test_inference_returns_the_statistics_themselves(rng):
    stats = draw_stats(rng, 5)
    x, same = draw(rng, (8, 5)), []

    def infer(x):
        _, new = jaxnorm.batch_norm(x, stats, use_running_average=True)
        same.append(new is stats)

    jax.eval_shape(infer, x)
    assert same == [True]


def test_new_statistics_carry_no_gradient(rng):
    def total(x, momentum):
        _, new = train(x, cold((5,)), momentum=momentum)
        return jnp.sum(new.mean) + jnp.sum(new.var)

    gradients = jax.jit(jax.grad(total, (0, 1)))(draw(rng, (8, 5)), place(0.5))
    for gradient in gradients:
        np.testing.assert_array_equal(gradient, 0)


def test_momentum_zero_forgets_even_nan(rng):
    x = draw(rng, (16, 5))
    nan, infinite = place(np.full(5, np.nan)), place(np.full(5, np.inf))
    _, new = train_jitted(x, jaxnorm.BatchStats(nan, infinite), momentum=0.0)
    _, expected = train_jitted(x, cold((5,)), momentum=0.0)
    chex.assert_trees_all_close(new, expected, atol=1e-5)


def test_what_overflows_when_stored_is_not_finite(rng):
    x = draw(rng, (64, 5), std=3e4)
    stats = cold((5,), jnp.float16)  # holds no variance of 9e8
    assert not np.isfinite(train_jitted(x, stats, momentum=0.5)[1].var).any()
    _, kept = train_jitted(x, stats, momentum=0.5, skip_nonfinite=True)
    chex.assert_trees_all_equal(kept, stats)


def test_a_poisoned_feature_does_not_stop_the_others(rng):
    """It was not finite before, so that no update is skipped because of it."""
    x, stats = draw(rng, (16, 5)), draw_stats(rng, 5)
    stats = stats._replace(mean=stats.mean.at[1].set(jnp.nan))
    step = functools.partial(train, momentum=0.5)
    _, expected = jax.jit(step)(x, stats)
    _, new = jax.jit(functools.partial(step, skip_nonfinite=True))(x, stats)
    chex.assert_trees_all_close(new, expected, rtol=1e-6)
    assert np.all(new.var != stats.var)


def test_schedules_of_the_same_limit_are_the_same():
    warmup = jaxnorm.warmup_momentum
    assert warmup(0.9) == warmup(0.9) != warmup(0.99)
    assert hash(warmup(0.9)) == hash(warmup(0.9))


@pytest.mark.parametrize(
    "init",
    [
        jaxnorm.init_batch_stats,
        functools.partial(jaxnorm.init_mean_stats, counted=True),
        functools.partial(jaxnorm.init_var_stats, counted=True),
        jaxnorm.init_renorm_stats,
        functools.partial(jaxnorm.init_recurrent_stats, 4),
        jaxnorm.init_running_moments,
    ],
)
def test_an_initial_state_can_be_donated(init):
    """No array is in two places, which JAX refuses to donate."""
    advance = jax.jit(lambda state: jax.tree.map(jnp.cos, state), donate_argnums=0)
    jax.block_until_ready(advance(init(3)))
