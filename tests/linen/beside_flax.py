"""The modules of per-example normalizers and those of `flax.linen`, side by side."""

import chex
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

import jaxnorm.linen

SHAPE = (3, 6, 8)
NEEDED = {"LayerNorm": {}, "RMSNorm": {}, "GroupNorm": {"num_groups": 4},
          "InstanceNorm": {}}  # fmt: skip
FUNCTIONS = {"LayerNorm": "layer_norm", "RMSNorm": "rms_norm",
             "GroupNorm": "group_norm", "InstanceNorm": "instance_norm"}  # fmt: skip
every_norm = pytest.mark.parametrize("name", NEEDED)


def pair(name):
    return getattr(jaxnorm.linen, name), getattr(nn, name)


def build(name, **options):
    """Our module and Flax's."""
    return [cls(**{**NEEDED[name], **options}) for cls in pair(name)]


def run(norm, x, mask=None, gradients=False):
    """Initial variables and output, and output and gradients with other parameters."""
    initial_y, variables = norm.init_with_output(jax.random.key(0), x)
    trained = perturb(variables)
    results = [variables, initial_y, norm.apply(trained, x, mask=mask)]
    if gradients:

        def loss(variables, x):
            return jnp.sum(jnp.sin(norm.apply(variables, x, mask=mask)))

        results += jax.jit(jax.grad(loss, argnums=(0, 1)))(trained, x)
    return results


def perturb(variables):
    def move(leaf):
        return leaf + 0.3 * jnp.sin(1 + jnp.arange(leaf.size).reshape(leaf.shape))

    return jax.tree.map(lambda leaf: move(leaf).astype(leaf.dtype), variables)


def same(ours, flax, tolerance=1e-4):
    # Flax's variance, of one pass, loses some digits where it is small.
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, flax)
    chex.assert_trees_all_close(ours, flax, rtol=tolerance, atol=tolerance)
    # the parameters are drawn with the same keys
    chex.assert_trees_all_equal(ours[0], flax[0])
