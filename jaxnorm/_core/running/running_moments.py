"""The moments of a stream: as exact after 1e8 updates as after the first.

In float32, a count of 2**24 does not grow by adding 1. A mean and a variance stop
earlier: a batch changes them by about 1 / count, which becomes less than half a unit in
the last place. Rounding skewed changes, up or to 0, also makes the variance drift. So
each number is stored as the unevaluated sum of two.
"""

from typing import NamedTuple

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm._core.arrays.dtypes import accumulation_dtype, promote, real_dtype
from jaxnorm._core.arrays.safe_math import real_inner_product, safe_count
from jaxnorm._core.arrays.sharding import shard_as, where
from jaxnorm._core.moments.moments import Moments
from jaxnorm._core.moments.shifted_moments import ShiftedMoments, round_last_bit
from jaxnorm._core.running.stats import check_statistic, init_batch_stats


class RunningMoments(NamedTuple):
    """Moments of a stream so far, each as the sum of two numbers.

    All have the feature shape; float32 unless initialized otherwise. To read them, the
    first three are enough. The others are their rounding errors, with which they hold
    twice as many digits.

    Attributes:
      count: Number of elements of each feature, or their weight. Starts at 0.
      mean: Mean. Starts at 0. Complex after an update with complex input.
      var: Biased variance (divided by `count`), E|x - mean|^2; real. Starts at 1.
      count_rest: Correction, to be added to `count`.
      mean_rest: Correction, to be added to `mean`.
      var_rest: Correction, to be added to `var`.
    """

    count: Array  # type: ignore[assignment]  # hides tuple.count
    mean: Array
    var: Array
    count_rest: Array
    mean_rest: Array
    var_rest: Array


def init_running_moments(
    feature_shape: int | tuple[int, ...], dtype: DTypeLike = jnp.float32
) -> RunningMoments:
    """Returns the moments of a stream before its first element.

    The count is 0, the mean 0 and the variance 1, so that x is normalized to itself.

    Args:
      feature_shape: Sizes of the feature axes, ascending; an integer for one axis, and
        () for a stream of numbers.
      dtype: Real floating dtype in which they are kept. (For complex input in a scan,
        whose state keeps its dtypes, make `mean` and `mean_rest` complex with
        `_replace`.)

    Raises:
      TypeError: If `dtype` is not real and floating, or a size not an integer.
      ValueError: If a size is negative.

    Example:
      >>> import jaxnorm
      >>> moments = jaxnorm.init_running_moments(1)
      >>> moments.count, moments.var
      (Array([0.], dtype=float32), Array([1.], dtype=float32))
    """
    mean, var = init_batch_stats(feature_shape, dtype)
    # Arrays of their own, so that the state can be donated.
    count, *rests = (jnp.zeros_like(mean) for _ in range(4))
    return RunningMoments(count, mean, var, *rests)


def check_running_moments(
    moments: object, feature_shape: tuple[int, ...], dtype: DTypeLike
) -> None:
    """Checks that the user passed `RunningMoments` that fit the input.

    Raises:
      TypeError: If they are not, hold integers, or are complex for real input.
      ValueError: If one has another shape.
    """
    if not isinstance(moments, RunningMoments):
        raise TypeError(
            f"moments must be RunningMoments, got {type(moments).__name__}. Make them "
            f"with init_running_moments({feature_shape})."
        )
    for name, value in moments._asdict().items():
        kind = dtype if name.startswith("mean") else jnp.float32
        check_statistic(value, f"moments.{name}", feature_shape, kind)


def cap_count(moments: RunningMoments, max_count: float) -> RunningMoments:
    """Returns moments with their count capped at `max_count`."""
    more = moments.count > max_count
    # In two parts as well: bfloat16 cannot represent 0.7.
    limit = np.asarray(max_count, moments.count.dtype)
    rest = jnp.full_like(moments.count_rest, max_count - float(limit))
    return moments._replace(
        count=where(more, jnp.full_like(moments.count, limit), moments.count),
        count_rest=where(more, rest, moments.count_rest),
    )


def merge_running_moments(a: RunningMoments, b: RunningMoments) -> RunningMoments:
    """Merges the moments of two streams, by the formula of `jaxnorm.merge_moments`.

    Args:
      a: Moments in float32 or wider.
      b: Moments of the same dtypes.
    """
    # a has at least half of the count. What is added then has an error that is small
    # relative to the standard deviation, however far apart the means are.
    more = a.count >= b.count
    a, b = _choose(more, a, b), _choose(more, b, a)
    # Moments of count 0 may hold any numbers.
    b = _choose(b.count > 0, b, jax.tree.map(jnp.zeros_like, b))
    weight = b.count / safe_count(a.count + b.count)
    # The mean's two parts separately: if the mean is large, the second matters.
    far, near = b.mean - a.mean, b.mean_rest - a.mean_rest
    between = real_inner_product(far + near, far + near) * (1 - weight)
    within = (b.var - a.var) + (b.var_rest - a.var_rest)
    complex_weight = weight.astype(far.dtype)

    count = _add(a.count, a.count_rest, b.count)
    count = _add(*count, b.count_rest)
    mean = _add(a.mean, a.mean_rest, round_last_bit(far * complex_weight))
    mean = _add(*mean, round_last_bit(near * complex_weight))
    var = _add(a.var, a.var_rest, round_last_bit((within + between) * weight))
    values, rests = zip(count, mean, var, strict=True)
    return RunningMoments(*values, *rests)


def running_moments_of(batch: ShiftedMoments) -> RunningMoments:
    """Returns the moments of a stream that consists of one batch.

    The second part of the mean is rounded explicitly. It is a quotient, which XLA may
    contract with the addition that gives the first part, in one kernel and not in
    another; the two kernels would then subtract different means.
    """
    zero = jnp.zeros_like(batch.var)
    # Added rather than broadcast, so that each is sharded as the variance is.
    count = jnp.asarray(batch.count) + zero
    shift = batch.shift + zero.astype(batch.shift.dtype)
    return RunningMoments(
        count, shift, batch.var, zero, round_last_bit(batch.delta), zero
    )


def add_batch(moments: RunningMoments, batch: RunningMoments) -> RunningMoments:
    """Returns the moments of a stream after a batch, in the wider dtype of the two.

    No gradient flows into them. They are sharded as `moments` are.
    """
    moments, batch = lax.stop_gradient((moments, batch))
    batch = RunningMoments(*map(shard_as, moments, batch))
    wide = accumulation_dtype(batch.mean.dtype, moments.mean.dtype)
    return merge_running_moments(cast_moments(moments, wide), cast_moments(batch, wide))


def cast_moments(moments: RunningMoments, dtype: DTypeLike) -> RunningMoments:
    """Casts moments, and divides each sum anew between its two parts.

    Casting the parts one by one would leave a second part that is not small relative to
    the last digit of the first. Moments that were cast so are repaired here.
    """
    real = real_dtype(dtype)
    total, rest = Moments(*moments[:3]), Moments(*moments[3:])
    pairs = map(_cast, total, rest, (real, dtype, real))
    values, rests = zip(*pairs, strict=True)
    return RunningMoments(*values, *rests)


def _cast(value: Array, rest: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """Casts a sum of two parts, so that the second part is small again."""
    wide = promote(value.dtype, rest.dtype, dtype)
    value, rest = value.astype(wide), rest.astype(wide)
    first = (value + rest).astype(dtype)
    return first, (rest + (value - first.astype(wide))).astype(dtype)


def _choose(
    condition: Array, yes: RunningMoments, no: RunningMoments
) -> RunningMoments:
    """Returns `yes` where the condition holds, and `no` elsewhere."""
    return jax.tree.map(lambda y, n: where(condition, y, n), yes, no)


def _add(value: Array, rest: Array, increment: Array) -> tuple[Array, Array]:
    """Returns `value + rest + increment` as the sum of two parts, the second small.

    It uses only additions, which give the same result wherever XLA repeats them. If the
    increment is a product, round it explicitly first; otherwise XLA may contract it
    with an addition (see `round_last_bit`).

    Reference:
      Knuth, 1997, The Art of Computer Programming, volume 2, section 4.2.2, theorem B;
      Dekker, 1971, A floating-point technique for extending the available precision.
    """
    total = value + increment
    added = total - value
    rest = rest + ((value - (total - added)) + (increment - added))
    first = total + rest
    return first, rest - (first - total)
