"""Batch normalization under vmap and rematerialization."""

import functools

import jax
import jax.numpy as jnp
import oracle
from drawing import draw, draw_stats

import jaxnorm

train = functools.partial(jaxnorm.batch_norm, use_running_average=False)
cold = jaxnorm.init_batch_stats


def test_vmap_over_models(rng):
    x, stats = draw(rng, (3, 8, 5), loc=1), draw_stats(rng, (3, 5))
    y, new = jax.device_get(jax.jit(jax.vmap(train))(x, stats))
    x, stats = jax.device_get((x, stats))
    for model in range(3):
        expected = oracle.batch_norm(x[model], stats.mean[model], stats.var[model])
        actual = (y[model], new.mean[model], new.var[model])
        for a, b in zip(actual, expected, strict=True):
            assert oracle.error(a, b) <= 1e-5


keep = jax.checkpoint_policies.save_only_these_names(jaxnorm.MOMENTS_NAME)
drop = jax.checkpoint_policies.nothing_saveable


def remat_losses(rng):
    x, stats = draw(rng, (8, 4, 5)), cold((5,))

    def block(w):
        return jnp.tanh(train(jnp.sin(x * w), stats, jnp.full(5, 2.0))[0])

    return [
        jax.jit(jax.grad(lambda w, f=f: jnp.sum(f(w) ** 2)))
        for f in (
            block,
            jax.checkpoint(block, policy=drop),
            jax.checkpoint(block, policy=keep),
        )
    ]


def test_remat_gives_the_same_gradients(rng):
    w = draw(rng, (1, 1, 5), loc=1)
    plain, dropped, kept = (loss(w) for loss in remat_losses(rng))
    for remat in (dropped, kept):  # next to the largest: sums of terms that cancel
        assert oracle.error(remat, plain) <= 1e-5


def count_primitives(name, function, *args):
    """How often primitives of a name are in a jaxpr and in all that it calls.

    A jaxpr, because the text of a lowered function prints what it calls twice once.
    """

    def count(jaxpr):
        own = sum(e.primitive.name.startswith(name) for e in jaxpr.eqns)
        parameters = [list(e.params.values()) for e in jaxpr.eqns]
        called = jax.tree.leaves(parameters, is_leaf=lambda p: hasattr(p, "eqns"))
        called = [getattr(p, "jaxpr", p) for p in called]
        return own + sum(count(p) for p in called if hasattr(p, "eqns"))

    return count(jax.make_jaxpr(function)(*args))


def test_remat_that_keeps_the_moments_repeats_no_reduction(rng):
    w = draw(rng, (1, 1, 5), loc=1)
    plain, dropped, kept = (
        count_primitives("reduce_sum", loss, w) for loss in remat_losses(rng)
    )
    assert kept == plain < dropped
