"""ResNet-50."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 with a shortcut.

    Attributes:
      width: features of the inner convolutions; the last one has four times as many.
      strides: strides of the second convolution, as in version 1.5, and of the
        shortcut.
      norm: returns a new normalizer.
    """

    width: int
    strides: int
    norm: Callable[[], nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps (N, H, W, C) to (N, H / strides, W / strides, 4 width)."""

        def conv(features: int, size: int, strides: int = 1) -> nn.Conv:
            return nn.Conv(
                features, (size, size), strides, use_bias=False, dtype=x.dtype
            )

        y = nn.relu(self.norm()(conv(self.width, 1)(x)))
        y = nn.relu(self.norm()(conv(self.width, 3, self.strides)(y)))
        y = self.norm()(conv(4 * self.width, 1)(y))
        if x.shape != y.shape:
            x = self.norm()(conv(4 * self.width, 1, self.strides)(x))
        return nn.relu(x + y)


class ResNet50(nn.Module):
    """ResNet-50, with 53 normalizers.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", table 1.

    Attributes:
      norm: returns a new normalizer.
      num_classes: number of classes.
      block_policy: policy under which `nn.remat` rematerializes each block; None: no
        block is.
    """

    norm: Callable[[], nn.Module]
    num_classes: int = 1000
    block_policy: Callable[..., Any] | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps images (N, H, W, 3) to logits (N, num_classes), in the dtype of x."""
        x = nn.Conv(64, (7, 7), 2, padding=3, use_bias=False, dtype=x.dtype)(x)
        x = nn.relu(self.norm()(x))
        x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        block = Bottleneck
        if self.block_policy is not None:
            block = nn.remat(Bottleneck, policy=self.block_policy)
        for stage, number in enumerate((3, 4, 6, 3)):
            for index in range(number):
                strides = 2 if stage > 0 and index == 0 else 1
                x = block(64 * 2**stage, strides, self.norm)(x)
        x = jnp.mean(x, axis=(1, 2))
        return nn.Dense(self.num_classes, dtype=x.dtype)(x)
