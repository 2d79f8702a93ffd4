"""Gradients of a full batch from micro-batches, through each normalizer."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.drawing import draw
from support.family_modules import TABLE
from support.tiers import matrix

from jaxnorm.tools import full_batch_value_and_grad

# Of each, what makes its training that with the statistics of the full batch.
NORMS = {
    "BatchNorm": {},
    "BatchRenorm": {"r_max": 1.0, "d_max": 0.0},
    "GhostBatchNorm": {"virtual_batch_size": 12},
    "AdaptiveBatchNorm": {},
    "MeanOnlyBatchNorm": {},
    "RecurrentBatchNorm": {},
    "DomainBatchNorm": {},
    "EvoNormB0": {},
    "SwitchableNorm": {},
    "BatchInstanceNorm": {},
    "InstanceBatchNorm": {},
}


def test_each_normalizer_that_collects_moments_is_there():
    collecting = {n for n, e in TABLE.items() if "momentum" in vars(e.build(True))}
    assert set(NORMS) == collecting - {"RunningNorm"}  # whose moments are constants


class Chain(nn.Module):
    """Layers, each normalized with the statistics of what those before it give."""

    norm: str
    depth: int

    @nn.compact
    def __call__(self, x, train):
        entry = TABLE[self.norm]
        for _ in range(self.depth):
            norm = entry.build(train, epsilon=1e-2, **NORMS[self.norm])
            x = jnp.sin(norm(nn.Dense(4)(x), *entry.beside(x)))
        return jnp.sum(x**3 + 2 * x)


# Often with both statistics, and with one of them; tests/tools/test_accumulate.py has a
# net of three layers.
OFTEN = [("BatchRenorm", 1), ("EvoNormB0", 1)]


@pytest.mark.parametrize(
    ("name", "depth"), matrix(itertools.product(NORMS, (1, 2, 3)), OFTEN)
)
def test_gradients_are_those_of_one_step_at_each_depth(name, depth, rng):
    chain, x = Chain(name, depth), draw(rng, (12, 2, 4))

    def loss(params, batch_stats, x):
        variables = {"params": params, "batch_stats": batch_stats}
        value, new = chain.apply(variables, x, train=False, mutable=["batch_moments"])
        return value, new["batch_moments"]

    @jax.jit
    def both(x, batches):
        params, stats = chain.init(jax.random.key(0), x, train=True).values()

        def full(params):
            variables = {"params": params, "batch_stats": stats}
            return chain.apply(variables, x, train=True, mutable=["batch_stats"])[0]

        step = full_batch_value_and_grad(loss, depth=depth, epsilon=1e-2)
        return step(params, stats, batches)[:2], jax.value_and_grad(full)(params)

    actual, expected = both(x, x.reshape(4, 3, *x.shape[1:]))
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    chex.assert_trees_all_close(actual, expected, rtol=1e-4, atol=1e-5 * scale)
