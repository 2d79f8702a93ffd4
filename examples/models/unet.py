"""A small U-Net of diffusion models, with group norm and SiLU before convolutions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))).

    Attributes:
      width: features of the result; if x has another number, a 1 x 1 convolution maps
        it.
      norm: returns a new normalizer.
    """

    width: int
    norm: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, width)."""
        y = x
        for _ in range(2):
            y = nn.silu(self.norm()(y))
            y = nn.Conv(self.width, (3, 3), dtype=x.dtype)(y)
        if x.shape[-1] != self.width:
            x = nn.Conv(self.width, (1, 1), dtype=x.dtype)(x)
        return x + y


class UNet(nn.Module):
    """A U-Net with one level and a skip connection.

    Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", appendix B,
    without attention and time.

    Attributes:
      norm: returns a new normalizer.
    """

    norm: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H, W, C), computed in the dtype of x."""
        n, height, width, features = x.shape
        x = ResidualBlock(features, self.norm)(x)
        y = nn.Conv(2 * features, (3, 3), strides=2, dtype=x.dtype)(x)
        y = ResidualBlock(2 * features, self.norm)(y)
        y = jax.image.resize(y, (n, height, width, 2 * features), "nearest")
        y = nn.Conv(features, (3, 3), dtype=x.dtype)(y)
        return ResidualBlock(features, self.norm)(jnp.concatenate([x, y], axis=-1))
