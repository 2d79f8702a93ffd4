"""Vectors of length 1 as a Flax Linen module."""

from collections.abc import Sequence

from flax import linen as nn
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.collectives import Groups


class UnitNorm(nn.Module):
    """Divides vectors by their length. It has no variables.

    The mathematics is that of `jaxnorm.unit_norm`.

    While initializing no device is asked, so that no axis need be bound.

    Attributes:
      axes: The axis or axes along which the vectors lie.
      epsilon: Added to the squared length; at least 0.
      dtype: Dtype of the result; by default that of the input.
      axis_name: Mapped axis or axes over which the vectors are divided. Under `jax.jit`
        a sharded input needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.UnitNorm()
      >>> norm.apply({}, jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3)
      Array([[0.6, 0.8],
             [0. , 0. ]], dtype=float32)
    """

    axes: Axes = -1
    epsilon: float = 0.0
    dtype: DTypeLike | None = None
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None

    @nn.compact
    def __call__(self, x: Inexact[Array, "..."]) -> Array:
        """Returns x divided by the length of its vectors."""
        initializing = self.is_initializing()
        return jaxnorm.unit_norm(
            x,
            axes=self.axes,
            epsilon=self.epsilon,
            axis_name=None if initializing else self.axis_name,
            axis_index_groups=None if initializing else self.axis_index_groups,
            dtype=self.dtype,
        )
