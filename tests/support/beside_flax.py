"""The modules of per-example normalizers and those of `flax.linen`, side by side."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxnorm.linen
from support.drawing import place

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


def run(name, x, mask=None, gradients=False, **options):
    """What our module and Flax's give, from one program."""
    norms = build(name, **options)

    @jax.jit
    def both(x, mask):
        return [_run(norm, x, mask, gradients) for norm in norms]

    return both(x, mask)


def _run(norm, x, mask, gradients):
    """Initial variables and output, and output and gradients with other parameters."""
    initial_y, variables = norm.init_with_output(jax.random.key(0), x)
    trained = perturb(variables)
    if not gradients:
        return variables, norm.apply(trained, x, mask=mask)

    def loss(variables, x):
        y = norm.apply(variables, x, mask=mask)
        return jnp.sum(jnp.sin(y)), y

    steps = jax.grad(loss, argnums=(0, 1), has_aux=True)(trained, x)
    return variables, initial_y, steps


def perturb(variables):
    def move(leaf):
        wave = 0.3 * np.sin(1 + np.arange(leaf.size)).reshape(leaf.shape)
        return leaf + place(wave, leaf.dtype)

    return jax.tree.map(move, variables)


def same(ours, flax, tolerance=1e-4):
    # Flax's variance, of one pass, loses some digits where it is small.
    chex.assert_trees_all_equal_shapes_and_dtypes(ours, flax)
    chex.assert_trees_all_close(ours, flax, rtol=tolerance, atol=tolerance)
    # the parameters are drawn with the same keys
    chex.assert_trees_all_equal(ours[0], flax[0])
