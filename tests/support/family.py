"""Each function of the family, called in the same way, so that all pass the same tests.

The folder normalizers says what the tests know of each. Here x, the parameters and the
state of a call are drawn.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles

from support.drawing import place
from support.normalizers import TABLE
from support.normalizers.entry import FEATURES, SHAPE, STEPS
from support.normalizers.states import draw_state

__all__ = ["FEATURES", "SHAPE", "STEPS", "TABLE"]

# One of each kind of state and each rule of derivatives: what compiles each function is
# compiled for these in the default tier, and for all in the full one.
KINDS = (
    "batch_norm",
    "ghost_batch_norm",
    "virtual_batch_norm",
    "recurrent_batch_norm",
    "running_norm",
    "layer_norm",
    "rms_norm",
    "global_response_norm",
    "evo_norm_s0",
    "switchable_norm",
    "spectral_norm",
)


def draw_arguments(entry, seed=0):
    """x, params and state, in float32; an empty tuple for no state."""
    rng = np.random.default_rng(seed)
    x = place(rng.normal(0.5, 1.5, SHAPE))
    params = {
        name: place(rng.normal(p.loc, p.std, p.shape))
        for name, p in entry.params.items()
    }
    return x, params, draw_state(entry, rng, x)


def draw_mask(entry):
    """Three quarters of all; None for one that takes no mask."""
    places = np.indices(SHAPE).sum(0)
    return jax.device_put(places % 4 != 0) if entry.masked else None


def cast(tree, dtype):
    return jax.tree.map(lambda leaf: place(leaf, dtype), tree)


def gradients_of(name):
    """A step: gradients in x and params of a sum over y; y, and the new state."""

    def step(x, params, state, mask):
        def loss(x, params):
            y, new = TABLE[name].call(x, params, state, mask)
            return jnp.sum(jnp.sin(y)), (y, new)

        return jax.grad(loss, (0, 1), has_aux=True)(x, params)

    return step


def close(actual, expected, tolerance=1e-5):
    chex.assert_trees_all_equal_shapes_and_dtypes(actual, expected)
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert oracles.error(a, b) <= tolerance
