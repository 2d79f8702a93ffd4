"""Moments of segments (the positions that have one id), and normalization with them.

A sum over segments is a scatter, and statistics of segments return to their positions
by a gather. Each is the other's transpose, so that JAX's own derivatives are the ones
that one would write by hand: the backward pass needs x, the ids and the sums of each
segment, and its own sums cross devices once.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm._core.arrays.dtypes import accumulation_dtype, real_dtype
from jaxnorm._core.arrays.platforms import by_platform
from jaxnorm._core.arrays.rematerialization import KEEP_MOMENTS, tag_for_remat
from jaxnorm._core.arrays.safe_math import (
    inverse_std,
    nan_if_overflowed,
    real_inner_product,
    safe_count,
)
from jaxnorm._core.arrays.sharding import axis_names, named_sharding, shard_as
from jaxnorm._core.moments.shifted_moments import (
    ShiftedMoments,
    mean_as_shift,
    moments_from_sums,
    safe_shift,
)
from jaxnorm._core.moments.total_variance import mean_square_about
from jaxnorm._core.reductions.collectives import pcast_stacked
from jaxnorm._core.reductions.masking import apply_weights, valid_or_finite, zero_masked
from jaxnorm._core.reductions.reduction import Reduction


@dataclasses.dataclass(frozen=True)
class SegmentNormSpec:
    """The static arguments of the normalizers of segments.

    Statistics of segments have the rank of x, (segments, 1, ..., features): segments
    along the first axis of positions, size 1 along the others and along reduced axes.

    Attributes:
      number: Number of segments.
      leading: Number of leading axes of x that hold positions.
      reduction: The other reduced axes, and mapped axes.
      epsilon: Added to the variance.
      dtype: Dtype of the result.
      center: Whether the mean is subtracted. If not, the moments are about 0.
      use_fast_variance: Whether to take one pass, with the running mean as shift.
    """

    number: int
    leading: int
    reduction: Reduction
    epsilon: float
    dtype: DTypeLike
    center: bool = True
    use_fast_variance: bool = False

    def sums(self, ids: Array, *values: Array) -> tuple[Array, ...]:
        """Sums values within segments and over reduced axes, on this device alone."""
        values = tuple(map(self.reduction.local_sum, values))
        return self._of_several(functools.partial(self._sum, ids), values)

    def broadcast_back(self, ids: Array, x: Array, *values: Array) -> tuple[Array, ...]:
        """Returns the values of each position's segment; 0 outside of all segments."""
        return self._of_several(functools.partial(self._broadcast_back, ids, x), values)

    def _sum(self, ids: Array, value: Array) -> Array:
        parts, part = self._partial_sum_slots(ids)
        shape = (parts, self.number, *value.shape[self.leading :])
        names, sharding = axis_names(value), None
        if names is not None:
            sharding = named_sharding(value, [None, None, *names[self.leading :]])
        zeros = jnp.zeros(shape, value.dtype, out_sharding=sharding)
        sums = zeros.at[part, ids].add(value, mode="drop", out_sharding=sharding)
        return jnp.expand_dims(jnp.sum(sums, 0), tuple(range(1, self.leading)))

    def _broadcast_back(self, ids: Array, x: Array, value: Array) -> Array:
        value = jnp.squeeze(value, tuple(range(1, self.leading)))
        parts, part = self._partial_sum_slots(ids)
        names, sharding = axis_names(x), None
        if names is not None:
            others = axis_names(value) or [None] * value.ndim
            sharding = named_sharding(x, [*names[: self.leading], *others[1:]])
        copies = jnp.repeat(value[None], parts, 0)
        return copies.at[part, ids].get(
            mode="fill", fill_value=0, out_sharding=sharding
        )

    def _of_several(
        self, function: Callable[[Array], Array], values: tuple[Array, ...]
    ) -> tuple[Array, ...]:
        """Returns `function` of each value; on GPUs, of all stacked along a last axis.

        Each scatter of XLA for GPUs is a kernel that reads x, and so is the transpose
        of each gather. XLA for TPUs and CPUs would write the stacked values to memory.
        """

        def of_each(*values: Array) -> tuple[Array, ...]:
            return tuple(map(function, values))

        def stacked(*values: Array) -> tuple[Array, ...]:
            results = function(jnp.stack(values, -1))
            return tuple(results[..., i] for i in range(len(values)))

        alike = len({(value.shape, value.dtype) for value in values}) == 1
        features = any(size != 1 for size in values[0].shape[self.leading :])
        explicit = axis_names(values[0]) is not None
        if len(values) == 1 or not alike or not features or explicit:
            return of_each(*values)
        return by_platform(*values, gpu=stacked, default=of_each)

    def _partial_sum_slots(self, ids: Array) -> tuple[int, Array]:
        """Returns the number of partial sums of a segment, and that of each position.

        A scatter adds one number after the other, which loses accuracy over long
        segments. So each segment has several sums, which are added at the end: about
        one for 32 positions, since all of them are written and read. Neighbors go to
        different sums, since the positions of a segment are often adjacent.
        """
        size = ids.size
        known = isinstance(size, int)  # and not symbolic
        parts = min(max(size // (32 * self.number), 1), 1024) if known else 1
        part = jnp.reshape(jnp.arange(size, dtype=jnp.int32) % parts, ids.shape)
        return parts, shard_as(ids, part)


# As `compute_moments`: layers of the same shapes are traced once for all.
@functools.partial(jax.jit, inline=True, static_argnums=0)
@functools.partial(
    jax.checkpoint,
    static_argnums=0,
    policy=KEEP_MOMENTS,
)
def normalize_segments(
    spec: SegmentNormSpec,
    x: Array,
    ids: Array,
    mask: Array,
    scale: Array,
    bias: Array,
    mean_scale: Array | None = None,
    running: tuple[Array, Array] | None = None,
) -> tuple[Array, ShiftedMoments]:
    """Normalizes x with the moments of its segments, and applies scale and bias.

    Args:
      spec: Static part.
      x: Input.
      ids: The segment of each position, from `parse_segments`, like the mask.
      mask: Which elements are in a segment and valid, or their weights.
      scale: Multiplies the normalized input; the rank of x, 1 where shared.
      bias: Added; likewise.
      mean_scale: The share of the mean to subtract; of the rank of x, with 1 along
        all axes but those of features. None: all of it.
      running: Running mean and variance of each segment, for segments without valid
        elements; or None.

    Returns:
      The normalized input, and the moments.
    """
    valid, dtype = valid_or_finite(mask, x), accumulation_dtype(spec.dtype, x.dtype)
    x = zero_masked(valid, x)
    deviation, moments = _compute_moments(spec, x, ids, mask, running and running[0])
    used = moments if running is None else moments.with_var_where_empty(running[1])
    offset, var = used.delta, used.var
    if mean_scale is not None:
        # E|x - a mean|^2 = var + |(1 - a) mean|^2, of terms that do not cancel.
        share = (1 - mean_scale.astype(var.dtype)).astype(offset.dtype)
        kept = share * used.mean
        offset, var = (
            offset - kept,
            nan_if_overflowed(mean_square_about(var, kept)),
        )
    rstd = inverse_std(var, spec.epsilon, var.dtype, used.count > 0)
    offset, rstd = pcast_stacked((offset, rstd), like=x)
    scale, bias = pcast_stacked((scale, bias), like=x)
    if spec.center:
        offset, rstd = spec.broadcast_back(ids, x, offset, rstd)
        deviation = zero_masked(valid, deviation - offset)
    else:
        (rstd,) = spec.broadcast_back(ids, x, rstd)
    slope = rstd.astype(dtype) * scale.astype(dtype)
    y = deviation.astype(dtype) * slope + bias.astype(dtype)
    return y.astype(spec.dtype), moments


def _compute_moments(
    spec: SegmentNormSpec, x: Array, ids: Array, mask: Array, running_mean: Array | None
) -> tuple[Array, ShiftedMoments]:
    """Returns x minus the shift of its segment, and the moments of segments.

    The first of two passes gives the means, which are the shifts of the second. The
    mean of a part of a segment would not do: the part may be one outlier.
    """
    x = x.astype(accumulation_dtype(x.dtype))
    share, sums = spec.reduction.mapped_axes.sum, functools.partial(spec.sums, ids)
    count = _local_count(spec, x, ids, mask)
    if not spec.center:
        (square,) = sums(apply_weights(mask, real_inner_product(x, x)))
        count, power = tag_for_remat(share((count, square)))
        zero = jnp.zeros_like(power, x.dtype)
        return x, ShiftedMoments(count, zero, zero, power / safe_count(count))
    shift = jnp.zeros((1,) * x.ndim, x.dtype)
    if running_mean is not None:
        shift = lax.stop_gradient(safe_shift(running_mean.astype(x.dtype)))
    if not spec.use_fast_variance:
        (total,) = sums(apply_weights(mask, lax.stop_gradient(x)))
        nonempty, total = tag_for_remat(share((count, total)))
        shift = mean_as_shift(nonempty, total, shift)
    deviation = x - spec.broadcast_back(ids, x, shift)[0]
    counted = zero_masked(mask, deviation)
    square = real_inner_product(counted, counted)
    sums_about = sums(apply_weights(mask, counted), apply_weights(mask, square))
    return deviation, moments_from_sums(
        shift, *tag_for_remat(share((count, *sums_about)))
    )


def _local_count(spec: SegmentNormSpec, x: Array, ids: Array, mask: Array) -> Array:
    """Returns the count, or weight, of each segment on this device alone."""
    dtype = real_dtype(x.dtype)
    # Integers, since adding ones in float32 stops at 2**24.
    weights = lax.stop_gradient(zero_masked(mask, mask))
    exact = mask.dtype == jnp.bool_
    (count,) = spec.sums(ids, weights.astype(jnp.int32 if exact else dtype))
    return count.astype(dtype) * jnp.asarray(
        spec.reduction.elements_per_mask_entry(mask, x), dtype
    )
