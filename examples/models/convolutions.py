"""A chain of convolutions, each normalized and rectified."""

from collections.abc import Callable

import jax
from flax import linen as nn


class ConvolutionChain(nn.Module):
    """Blocks of a 3 x 3 convolution, a normalizer and a ReLU, of constant width.

    Attributes:
      norm: returns a new normalizer.
      blocks: number of blocks.
    """

    norm: Callable[[], nn.Module]
    blocks: int = 4

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C), computed in the dtype of x."""
        for _ in range(self.blocks):
            conv = nn.Conv(x.shape[-1], (3, 3), use_bias=False, dtype=x.dtype)
            x = nn.relu(self.norm()(conv(x)))
        return x
