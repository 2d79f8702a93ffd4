"""Batch norm with several sets of statistics; each example selects one."""

from typing import Any

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arguments.axes import batch_axis, other_axes
from jaxnorm._core.arguments.segment_ids import parse_segments
from jaxnorm._core.arguments.validation import check_index
from jaxnorm._core.arrays.dtypes import as_array
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.moments.moments import Moments
from jaxnorm._core.moments.segments import SegmentNormSpec, normalize_segments
from jaxnorm._core.moments.shifted_moments import ShiftedMoments
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.running.stats import Stats


def check_indices(
    index: ArrayLike, name: str, x: Array, size: int | None = None
) -> Array:
    """Returns an index, or one for each example, as integers in [0, size).

    Args:
      index: An integer scalar or array, traced or not.
      name: Its name.
      x: The input, whose first axis is the batch axis.
      size: As in `check_index`. A traced index out of range becomes the last.

    Raises:
      TypeError: If it holds no integers.
      ValueError: If it is of another shape, or known while tracing and out of range.
    """
    array = as_array(index, name)
    if array.ndim == 0 or not jnp.issubdtype(array.dtype, jnp.integer):
        return check_index(index, name, size)
    if array.shape != jnp.shape(x)[:1]:
        raise ValueError(
            f"{name} must be a scalar, or one index for each example, of shape "
            f"{jnp.shape(x)[:1]} for an input of shape {jnp.shape(x)}, got the shape "
            f"{array.shape}."
        )
    if not isinstance(index, jax.core.Tracer):
        known = np.asarray(index)
        for extreme in (known.min(initial=0), known.max(initial=0)):
            check_index(int(extreme), name, size)
    if size is None:
        return array
    array = array.astype(jnp.int32)
    return jnp.where((array < 0) | (array >= size), size - 1, array)


def batch_norm_by_index(
    call: BatchCall, stats: Stats, index: Array
) -> tuple[Array, Stats]:
    """Normalizes each example with the statistics at its index.

    Args:
      call: The checked arguments.
      stats: Running statistics with a leading axis, along which the index points.
      index: Index of each example; in range.

    Returns:
      y and the new statistics, as in `jaxnorm.recurrent_batch_norm`.
    """
    spec, ids, mask = _segments(call, index, len(stats.mean))
    others = _others(call)
    mean, var = (jnp.expand_dims(leaf, others) for leaf in (stats.mean, stats.var))
    if call.use_running_average:
        mean, var = spec.broadcast_back(ids, call.x, mean, var)
        return call.normalize(mean, var), stats
    stats = call.average_replicas(stats)
    mean, var = (jnp.expand_dims(leaf, others) for leaf in (stats.mean, stats.var))
    arguments = call.x, ids, mask, call.scale, call.bias
    y, moments = normalize_segments(spec, *arguments, None, (mean, var))
    return y, jax.vmap(call.update)(stats, _per_feature(call, moments))


def moments_by_index(x: Array, number: int, index: Array, options: Any) -> Moments:
    """Returns the exact moments of the examples of each index, along a leading axis.

    Args:
      x: Input.
      number: Number of indices.
      index: Of each example; in range.
      options: Those of batch norm.
    """
    exact = {"use_running_average": False, "use_fast_variance": False}
    call = BatchCall.from_options(x, None, None, options | exact)
    spec, ids, mask = _segments(call, index, number)
    arguments = call.x, ids, mask, call.scale, call.bias
    return _per_feature(call, normalize_segments(spec, *arguments)[1])


def _others(call: BatchCall) -> tuple[int, ...]:
    """Returns the axes other than the batch axis and the feature axes."""
    return other_axes((batch_axis(call.features), *call.features), call.x.ndim)


def _segments(
    call: BatchCall, index: Array, number: int
) -> tuple[SegmentNormSpec, Array, Array]:
    """Returns the spec, ids and mask for which each index is a segment."""
    ids, _, mask = parse_segments(index, number, call.x, call.mask, call.features)
    spec = SegmentNormSpec(
        number,
        leading=1,
        reduction=Reduction(_others(call), call.reduction.mapped_axes),
        epsilon=call.spec.epsilon,
        dtype=call.spec.dtype,
        use_fast_variance=call.use_fast_variance,
    )
    return spec, ids, mask


def _per_feature(call: BatchCall, moments: ShiftedMoments) -> Moments:
    """Returns moments with the leading axis before the features."""
    count = moments.count + jnp.zeros_like(moments.var)
    values = (count, moments.mean, moments.var)
    return Moments(*(jnp.squeeze(value, _others(call)) for value in values))
