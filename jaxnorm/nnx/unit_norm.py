"""Vectors of length 1 as a Flax NNX module."""

from collections.abc import Sequence

from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.collectives import Groups
from jaxnorm.nnx.affine import hashable


class UnitNorm(nnx.Module):
    """Divides vectors by their length. It has no variables.

    The mathematics is that of `jaxnorm.unit_norm`.

    Attributes are those of `jaxnorm.linen.UnitNorm`, with the same meaning.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> norm = jaxnorm.nnx.UnitNorm()
      >>> norm(jnp.array([[3.0, 4.0], [0.0, 0.0]])).round(3)
      Array([[0.6, 0.8],
             [0. , 0. ]], dtype=float32)
    """

    def __init__(
        self,
        *,
        axes: Axes = -1,
        epsilon: float = 0.0,
        dtype: DTypeLike | None = None,
        axis_name: str | Sequence[str] | None = None,
        axis_index_groups: Groups | None = None,
    ) -> None:
        self.axes = hashable(axes)
        self.epsilon = epsilon
        self.dtype = dtype
        self.axis_name = hashable(axis_name)
        self.axis_index_groups = hashable(axis_index_groups)

    def __call__(self, x: Inexact[Array, "..."]) -> Array:
        """Returns x divided by the length of its vectors."""
        return jaxnorm.unit_norm(
            x,
            axes=self.axes,
            epsilon=self.epsilon,
            axis_name=self.axis_name,
            axis_index_groups=self.axis_index_groups,
            dtype=self.dtype,
        )
