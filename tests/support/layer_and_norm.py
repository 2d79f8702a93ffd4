"""Models of a layer with a batch norm, and their variables as after training."""

import jax
import numpy as np
from flax import linen as nn

import jaxnorm.linen
from support.drawing import place


class Pair(nn.Module):
    """A layer with a norm after or before it, or with none."""

    layer: nn.Module
    axis: int | tuple[int, ...] | None = -1  # of the norm; None: no norm
    norm_first: bool = False
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x):
        def norm(x):
            if self.axis is None:
                return x
            return jaxnorm.linen.BatchNorm(
                use_running_average=True,
                axis=self.axis,
                epsilon=self.epsilon,
                name="norm",
            )(x)

        return self.layer(norm(x)) if self.norm_first else norm(self.layer(x))


def draw_like(tree, seed=0):
    """Random variables of the same shapes; variances are positive."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name = path[-1].key
        low, high = {"var": (0.2, 3), "kernel": (-0.5, 0.5)}.get(name, (-2, 2))
        return place(rng.uniform(low, high, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, tree)


def draw_variables(model, x, seed=0):
    return draw_like(jax.eval_shape(model.init, jax.random.key(0), x), seed)


def error(actual, expected):
    """The largest difference, relative to the largest magnitude."""
    assert actual.shape == expected.shape
    actual, expected = np.asarray(actual, float), np.asarray(expected, float)
    return np.max(np.abs(actual - expected)) / np.max(np.abs(expected))
