"""The MLP half of a pre-norm transformer."""

from collections.abc import Callable

import jax
from flax import linen as nn


class PreNormMLP(nn.Module):
    """Blocks of x + W2 gelu(W1 norm(x)).

    Source: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture",
    figure 1(b), without attention.

    Attributes:
      norm: returns a new normalizer.
      blocks: number of blocks.
      expansion: width of the hidden layer divided by the width of x.
    """

    norm: Callable[[], nn.Module]
    blocks: int = 2
    expansion: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, length, C) to (N, length, C), computed in the dtype of x."""
        width = x.shape[-1]
        for _ in range(self.blocks):
            y = self.norm()(x)
            y = nn.Dense(self.expansion * width, use_bias=False, dtype=x.dtype)(y)
            y = nn.Dense(width, use_bias=False, dtype=x.dtype)(nn.gelu(y))
            x = x + y
        return x
