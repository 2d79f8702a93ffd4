"""Normalization of vectors to length 1."""

import functools
import math
from collections.abc import Sequence

import jax
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact

from jaxnorm._core.arguments.axes import Axes, canonical_axes
from jaxnorm._core.arguments.validation import check_epsilon
from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_inexact, output_dtype
from jaxnorm._core.arrays.rematerialization import KEEP_MOMENTS
from jaxnorm._core.reductions.collectives import Groups, MappedAxes
from jaxnorm.weight.weight_norm import direction_and_length


def unit_norm(
    x: Inexact[Array, "..."],
    *,
    axes: Axes = -1,
    epsilon: float = 0.0,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Divides vectors by their length.

    The sum is over `axes`::

        y = x / sqrt(sum(|x|^2) + epsilon)

    It is computed in float32 or wider. A vector of zeros stays 0, and its derivatives
    are 0 if epsilon is 0. Squares neither overflow nor underflow, whatever the size of
    x. A vector of subnormal numbers, which many processors flush to 0, may get a length
    below 1. The backward pass keeps x, and two numbers for each vector.

    Other normalizers can be built from it, with a learned scalar g, and c channels::

        g * unit_norm(x)                                   # ScaleNorm
        g * unit_norm(query), unit_norm(key)               # query-key norm
        math.sqrt(c) * unit_norm(x, epsilon=c * 1e-8)      # PixelNorm, channels last

    There is no mask, because zeros do not count: `unit_norm(jnp.where(mask, x, 0))`.

    Args:
      x: Input of any shape; floating or complex.
      axes: The axis or axes of the vectors.
      epsilon: Added to the squared length; at least 0.
      axis_name: Mapped axis or axes (of `jax.pmap`, `jax.shard_map`, `jax.vmap`) over
        which the vectors are divided: two collectives forward and one backward. Under
        `jax.jit` a sharded x needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`;
        vectors are divided only within a group.
      dtype: Dtype of y; by default the dtype of x.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If x is an integer array, or `dtype` is real for complex input.
      ValueError: If an axis or the groups do not fit, or epsilon is negative.
      NameError: If `axis_name` is not bound.

    Reference:
      Nguyen and Salazar, 2019, Transformers without Tears, section 2.2 (ScaleNorm;
      https://arxiv.org/abs/1910.05895). Henry et al., 2020, Query-Key Normalization for
      Transformers (https://arxiv.org/abs/2010.04245). Karras et al., 2018, Progressive
      Growing of GANs, section 4.2 (PixelNorm; https://arxiv.org/abs/1710.10196).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[3.0, 4.0], [0.0, 0.0], [3e30, -4e30]])
      >>> jaxnorm.unit_norm(x).round(3)
      Array([[ 0.6,  0.8],
             [ 0. ,  0. ],
             [ 0.6, -0.8]], dtype=float32)
    """
    x = check_inexact(x, "x")
    result = output_dtype(dtype, x=x)
    mapped_axes = MappedAxes.parse(axis_name, axis_index_groups, x)
    # Otherwise two quotients of x would be kept in float32.
    normalize = jax.checkpoint(
        functools.partial(
            _normalize,
            canonical_axes(axes, x.ndim, "axes"),
            math.sqrt(check_epsilon(epsilon)),
            mapped_axes,
            result,
        ),
        policy=KEEP_MOMENTS,
    )
    return normalize(x)


def _normalize(
    axes: tuple[int, ...],
    least: float,
    mapped_axes: MappedAxes,
    result: DTypeLike,
    x: Array,
) -> Array:
    """Returns x / sqrt(|x|^2 + least^2), with the norm along `axes`."""
    x = x.astype(accumulation_dtype(result, x.dtype))
    direction, _ = direction_and_length(x, axes, least, mapped_axes)
    return direction.astype(result)
