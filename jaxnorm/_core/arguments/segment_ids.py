"""Checks of segment ids, which say which segment each position is in."""

from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arguments.align import align_mask
from jaxnorm._core.arguments.axes import Axes, canonical_axes
from jaxnorm._core.arguments.validation import check_integer
from jaxnorm._core.arrays.dtypes import as_array
from jaxnorm._core.arrays.sharding import shard_as, where


def parse_segments(
    segment_ids: ArrayLike,
    num_segments: int,
    x: Array,
    mask: ArrayLike | None,
    feature_axes: tuple[int, ...],
) -> tuple[Array, int, Array]:
    """Checks segment ids; returns them, their number, and the mask of valid elements.

    Args:
      segment_ids: As the user passes it.
      num_segments: As the user passes it.
      x: Input.
      mask: As the user passes it.
      feature_axes: Canonical feature axes.

    Returns:
      Ids of the shape of `segment_ids`, with `num_segments` in place of those out of
      range; the number; and a mask with the rank of x, 0 outside of all segments.

    Raises:
      TypeError: If ids are not integers, or the number is not a Python integer.
      ValueError: If ids do not lie along leading axes, a feature axis is among these,
        or the number is not positive.
    """
    ids = as_array(segment_ids, "segment_ids")
    number = check_integer(num_segments, "num_segments")
    if number < 1:
        raise ValueError(f"num_segments must be at least 1, got {number}.")
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise TypeError(
            f"segment_ids must be integers, got {ids.dtype}. If they hold whole "
            "numbers, pass segment_ids.astype(jnp.int32)."
        )
    leading = ids.ndim
    first = min(feature_axes, default=x.ndim)
    if not leading or ids.shape != x.shape[:leading]:
        raise ValueError(
            "segment_ids must have the shape of the leading axes of x, one id for "
            f"each position: {x.shape[:first]}, or fewer of these axes, for an input "
            f"of shape {x.shape}, got {ids.shape}."
        )
    if first < leading:
        raise ValueError(
            f"feature_axes must come after the {leading} axes of segment_ids, got "
            f"{feature_axes} for an input of shape {x.shape}. Does it lack an axis of "
            "features? Add one: x[..., None]."
        )
    if ids.dtype.itemsize < 4:  # may not hold the number
        ids = ids.astype(jnp.int32)
    ids = shard_as(x, jnp.expand_dims(ids, tuple(range(leading, x.ndim))))
    inside = (ids >= 0) & (ids < number)
    ids = jnp.squeeze(where(inside, ids, number), tuple(range(leading, x.ndim)))
    mask = align_mask(mask, x)
    if mask is None:
        return ids, number, inside
    return ids, number, where(inside, mask, jnp.zeros_like(mask))


def reduced_axes(
    reduction_axes: Axes, segment_ids: ArrayLike, ndim: int
) -> tuple[int, ...]:
    """Returns the canonical axes that are reduced in addition to the positions.

    Raises:
      TypeError: If an axis is not an integer.
      ValueError: If one is out of range, or an axis of positions.
    """
    axes = canonical_axes(reduction_axes, ndim, "reduction_axes")
    leading = jnp.ndim(segment_ids)
    if axes and axes[0] < leading:
        raise ValueError(
            f"reduction_axes must come after the {leading} axes of segment_ids, over "
            f"which each segment is reduced anyway, got {reduction_axes!r}."
        )
    return axes
