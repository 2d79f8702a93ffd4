"""Batch normalization under vmap and rematerialization."""

import functools

import jax
import jax.numpy as jnp
import oracles
from support.counting import assert_moments_are_kept
from support.drawing import draw, draw_stats

import jaxnorm

train = functools.partial(jaxnorm.batch_norm, use_running_average=False)
cold = jaxnorm.init_batch_stats


def test_vmap_over_models(rng):
    x, stats = draw(rng, (3, 8, 5), loc=1), draw_stats(rng, (3, 5))
    y, new = jax.device_get(jax.jit(jax.vmap(train))(x, stats))
    x, stats = jax.device_get((x, stats))
    for model in range(3):
        expected = oracles.batch_norm(x[model], stats.mean[model], stats.var[model])
        actual = (y[model], new.mean[model], new.var[model])
        for a, b in zip(actual, expected, strict=True):
            assert oracles.error(a, b) <= 1e-5


def layer(rng):
    x, stats = draw(rng, (8, 4, 5)), cold((5,))

    def block(w):
        return jnp.tanh(train(jnp.sin(x * w), stats, jnp.full(5, 2.0))[0])

    return block, draw(rng, (1, 1, 5), loc=1)


def test_remat_gives_the_same_gradients(rng):
    block, w = layer(rng)
    policies = jax.checkpoint_policies
    keep = policies.save_only_these_names(jaxnorm.MOMENTS_NAME)
    kept, dropped = (
        jax.checkpoint(block, policy=policy)
        for policy in (keep, policies.nothing_saveable)
    )
    plain, *remat = (
        jax.jit(jax.grad(lambda w, f=f: jnp.sum(f(w) ** 2)))(w)
        for f in (block, kept, dropped)
    )
    for gradient in remat:  # next to the largest: sums of terms that cancel
        assert oracles.error(gradient, plain) <= 1e-5


def test_remat_that_keeps_the_moments_repeats_no_reduction(rng):
    assert_moments_are_kept("reduce_sum", *layer(rng))
