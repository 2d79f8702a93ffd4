"""Normalization of each step of a sequence by the moments of its prefix.

The moments of all prefixes are running sums of the moments of the steps along the time,
which JAX differentiates by running sums backward. The mean is summed twice, because a
running sum of large means would lose the digits of the variance: once for a number s
near the mean m of each prefix, and once for the remainder m - s. With the count n[t]
and the mean x[t] of step t, and the count N of a prefix::

    N[t] (m[t] - s[t]) = sum of n[u] (x[u] - s[u]) - N[u-1] (s[u] - s[u-1]), u <= t

The variance is the running sum of the variances within steps, and of the variances
between each step and the prefix before it (see `jaxnorm.merge_moments`). No term is
negative.
"""

import dataclasses
import functools

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm._core.arrays.dtypes import accumulation_dtype, promote
from jaxnorm._core.arrays.known import is_known
from jaxnorm._core.arrays.rematerialization import KEEP_MOMENTS
from jaxnorm._core.arrays.safe_math import (
    inverse_std,
    nan_if_overflowed,
    real_inner_product,
    safe_count,
)
from jaxnorm._core.arrays.sharding import gather, shard_as, where
from jaxnorm._core.moments.compute_moments import compute_own_moments
from jaxnorm._core.moments.shifted_moments import (
    ShiftedMoments,
    mean_as_shift,
    round_last_bit,
)
from jaxnorm._core.normalize import normalize_with
from jaxnorm._core.reductions.collectives import pcast_stacked
from jaxnorm._core.reductions.masking import valid_or_finite, zero_masked
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.running.running_moments import (
    RunningMoments,
    cast_moments,
    merge_running_moments,
    running_moments_of,
)


@dataclasses.dataclass(frozen=True)
class Prefixes:
    """The static arguments of `normalize_by_prefixes`.

    Attributes:
      time: The axis of the steps.
      reduction: The reduction of each step.
      epsilon: Added to the variance.
      dtype: Dtype of the output.
    """

    time: int
    reduction: Reduction
    epsilon: float
    dtype: DTypeLike


# Under jit, layers of the same shapes are traced once (see `compute_moments`).
# Under checkpoint, x and the sums of each step are saved for the backward pass, and
# nothing else. A barrier between the two passes would be a barrier on cotangents too,
# and would cost more traffic than it saves.
@functools.partial(jax.jit, inline=True, static_argnums=0)
@functools.partial(
    jax.checkpoint,
    static_argnums=0,
    prevent_cse=False,
    policy=KEEP_MOMENTS,
)
def normalize_by_prefixes(
    spec: Prefixes,
    x: Array,
    start: RunningMoments,
    scale: Array,
    bias: Array,
    mask: Array | None,
) -> tuple[Array, RunningMoments]:
    """Returns each step normalized, and the moments after the last one.

    Args:
      spec: Static part.
      x: Input.
      start: Moments of the steps before x, of its rank, like the returned ones.
      scale: Multiplies the normalized input; the rank of x, 1 where shared.
      bias: Added; likewise.
      mask: Aligned mask or weights, not differentiated, or None.
    """
    valid = valid_or_finite(mask, x)
    # Once for all uses of x, so that its gradient is rounded once.
    x = zero_masked(valid, x).astype(accumulation_dtype(x.dtype))
    steps = _moments_of_steps(x, spec.reduction, mask)
    moments = _merge_with_start(start, steps, spec.time)
    dtype = accumulation_dtype(spec.dtype, x.dtype)
    own = cast_moments(moments, dtype)
    nonempty = None if mask is None else own.count > 0
    rstd = inverse_std(own.var, spec.epsilon, dtype, nonempty)
    varying = pcast_stacked((own.mean, own.mean_rest, rstd), like=x)
    mean, rest, rstd = map(spec.reduction.broadcast_back, varying)
    centered = zero_masked(valid, x.astype(dtype) - mean)
    y = normalize_with(rest, rstd, centered, scale, bias, valid, spec.dtype)
    return y, _last_moments(moments, start, spec.time)


def _moments_of_steps(
    x: Array, reduction: Reduction, mask: Array | None
) -> ShiftedMoments:
    """Returns the moments of each step; if a step is a single value, x is its mean.

    The backward pass then needs nothing but x.
    """
    size = reduction.size(x)
    if not isinstance(size, int) or size != 1:  # a symbolic size is not known
        return compute_own_moments(x, reduction, mask=mask)
    zero = jnp.zeros_like(x)
    return ShiftedMoments(reduction.count(x, mask), x, zero, zero.real)


def _merge_with_start(
    start: RunningMoments, steps: ShiftedMoments, time: int
) -> RunningMoments:
    """Returns, for each step, the moments of `start` and all steps up to it."""
    whole = jax.tree.map(lambda v: v if is_known(v) else gather(v, time), steps)
    own = prefix_moments(whole, time)
    wide = promote(own.mean.dtype, start.mean.dtype)
    start = jax.tree.map(lambda value: shard_as(own.var, value), start)
    return merge_running_moments(cast_moments(start, wide), cast_moments(own, wide))


def _last_moments(
    moments: RunningMoments, start: RunningMoments, time: int
) -> RunningMoments:
    """Returns the moments after the last step, in the dtype of `start`.

    They are `start` if there are no steps.
    """
    if moments.var.shape[time] == 0:
        shape = list(moments.var.shape)
        shape[time] = 1
        last = jax.tree.map(lambda value: jnp.broadcast_to(value, shape), start)
    else:
        last = jax.tree.map(
            lambda value: lax.slice_in_dim(value, -1, None, axis=time), moments
        )
    kept = start.mean.dtype
    if jnp.iscomplexobj(moments.mean):
        kept = promote(kept, jnp.complex64)
    return cast_moments(last, kept)


def prefix_moments(steps: ShiftedMoments, time: int) -> RunningMoments:
    """Returns the moments of all steps up to and including each one.

    Args:
      steps: Moments of each step, whole along the time on this device. The count may
        have size 1 where it is shared, along the time too.
      time: Their axis of time.
    """
    count = _running_count(steps, time)
    before = _delay(count, time)
    divisor = safe_count(count)
    kind = steps.shift.dtype
    own, old = steps.count.astype(kind), before.astype(kind)

    # Nothing below depends on the choice of the shift, which is not differentiated.
    mean = lax.stop_gradient(steps.shift + round_last_bit(steps.delta))
    total = jnp.cumsum(own * mean, time)
    shift = mean_as_shift(count, total, jnp.zeros_like(total))
    moved = shift - _delay(shift, time)
    deviation = (steps.shift - shift) + steps.delta
    rest = jnp.cumsum(own * deviation - old * moved, time)
    delta = rest / divisor.astype(kind)

    jump = (steps.shift - _delay(shift, time)) + (steps.delta - _delay(delta, time))
    # Before squares, which may overflow where nothing was seen.
    nonempty = (steps.count > 0) & (before > 0)
    jump = where(nonempty, jump, jnp.zeros_like(jump))
    between = real_inner_product(jump, jump) * (before / divisor)
    squares = jnp.cumsum(steps.count * (steps.var + between), time)
    var = nan_if_overflowed(squares / divisor)

    return running_moments_of(ShiftedMoments(count, shift, delta, var))


def _running_count(steps: ShiftedMoments, time: int) -> Array:
    """Returns the count of each prefix: a running sum, or k times a common count."""
    count, length = jnp.asarray(steps.count), steps.var.shape[time]
    if count.shape[time] == length:
        return jnp.cumsum(count, time)
    shape = [1] * count.ndim
    shape[time] = length
    return count * (1 + lax.broadcasted_iota(count.dtype, shape, time))


def _delay(value: Array, time: int) -> Array:
    """Shifts values to the next step; the first step gets 0."""
    config = [(0, 0, 0)] * value.ndim
    config[time] = (1, -1, 0)
    return lax.pad(value, jnp.zeros((), value.dtype), config)
