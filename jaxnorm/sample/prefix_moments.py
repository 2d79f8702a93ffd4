"""The moments of every prefix of a sequence, from those of its steps.

By running sums along the time, which JAX differentiates by running sums backward. The
mean is summed twice, since a running sum of large means would lose the digits that the
variance is in: once for a number s near the mean m of each prefix, and once for what is
left of it. With the step t of count n and mean x, and N the count of a prefix::

    N[t] (m[t] - s[t]) = sum of n[u] (x[u] - s[u]) - N[u-1] (s[u] - s[u-1]), u <= t

The variance is the running sum of the steps' own and of what lies between each step and
the prefix before it (see `jaxnorm.merge_moments`). No term of it is negative.
"""

from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.compute_moments import (
    ShiftedMoments,
    mean_as_shift,
    nan_if_overflown,
    real_inner_product,
    safe_count,
)
from jaxnorm._core.running_moments import RunningMoments
from jaxnorm._core.sharding import where


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
    total = jnp.cumsum(own * lax.stop_gradient(steps.mean), time)
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
    var = nan_if_overflown(squares / divisor)

    # Added rather than broadcast, so that each is sharded as the variance is.
    zero = jnp.zeros_like(var)
    return RunningMoments(count + zero, shift, var, zero, delta, zero)


def _running_count(steps: ShiftedMoments, time: int) -> Array:
    """Returns the count of each prefix; by a product, where all steps have the same."""
    count, length = steps.count, steps.var.shape[time]
    if count.shape[time] == length:
        return jnp.cumsum(count, time)
    shape = [1] * count.ndim
    shape[time] = length
    return count * (1 + lax.broadcasted_iota(count.dtype, shape, time))


def _delay(value: Array, time: int) -> Array:
    """Returns each value one step later, and 0 at the first."""
    config = [(0, 0, 0)] * value.ndim
    config[time] = (1, -1, 0)
    return lax.pad(value, jnp.zeros((), value.dtype), config)
