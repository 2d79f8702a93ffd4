"""The normalizers that `config.norm` can name."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxnorm.linen


class NormOptions(NamedTuple):
    """What the configuration says about normalization; each normalizer takes its part.

    Attributes:
      axis_name: the device axis over which statistics are summed, or None.
      momentum: the weight of the old running average, in [0, 1], or a schedule of it.
      dtype: the dtype of the output; statistics stay float32.
    """

    axis_name: str | None = None
    momentum: float | Callable[[jax.Array], jax.Array] = 0.99
    dtype: jnp.dtype = jnp.float32


class Identity(nn.Module):
    """Leaves its input as it is."""

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Returns `x`."""
        return x


def _batch(options: NormOptions, train: bool) -> nn.Module:
    return jaxnorm.linen.BatchNorm(
        use_running_average=not train,
        momentum=options.momentum,
        axis_name=options.axis_name,
        dtype=options.dtype,
    )


def _none(options: NormOptions, train: bool) -> nn.Module:
    return Identity()


# name -> (options, train) -> a module that is called with (x, mask=...).
NORMS: dict[str, Callable[[NormOptions, bool], nn.Module]] = {
    "batch": _batch,
    "none": _none,
}
