"""`RecurrentBatchNorm` in a recurrence of our own."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
from flax import linen as nn
from support.drawing import place

import jaxnorm.linen

BATCH, TIME, INPUTS, STEPS = 6, 4, 3, 5
KEY = jax.random.key(0)


class Scanned(nn.Module):
    """A recurrence of our own around the bare norm."""

    train: bool

    @nn.compact
    def __call__(self, xs):
        def step(norm, h, inputs):
            x, index = inputs
            y = norm(jnp.tanh(h + x), index)
            return y, y

        norm = jaxnorm.linen.RecurrentBatchNorm(
            max_steps=STEPS, use_running_average=not self.train, momentum=0.0
        )
        if self.is_initializing():  # a scan carries what is there before it
            norm(xs[0], 0)
        lift = (
            {"variable_carry": "batch_stats", "variable_broadcast": "params"}
            if self.train
            else {"variable_broadcast": ("params", "batch_stats")}
        )
        scan = nn.scan(step, split_rngs={"params": False}, **lift)
        return scan(norm, jnp.zeros_like(xs[0]), (xs, jnp.arange(len(xs))))[1]


def test_recurrent_batch_norm_in_nn_scan(rng):
    """With momentum 0, inference afterwards gives what training gave."""
    xs = place(rng.normal(size=(TIME, BATCH, INPUTS)))
    variables = jax.jit(Scanned(True).init)(KEY, xs)
    chex.assert_tree_shape_prefix(variables["batch_stats"], (STEPS, INPUTS))
    apply = functools.partial(Scanned(True).apply, mutable=["batch_stats"])
    y, updates = jax.jit(apply)(variables, xs)
    h = np.zeros((BATCH, INPUTS))
    for step, x in enumerate(oracles.wide(xs)):
        h = np.tanh(h + x)
        mean, var = h.mean(0), h.var(0)
        stored = updates["batch_stats"]["RecurrentBatchNorm_0"]
        np.testing.assert_allclose(stored["mean"][step], mean, rtol=1e-4, atol=1e-6)
        h = (h - mean) / np.sqrt(var + 1e-5)
        assert oracles.error(y[step], h) <= 1e-5
    inferred = jax.jit(Scanned(False).apply)({**variables, **updates}, xs)
    assert oracles.error(inferred, y) <= 1e-4
