"""Running statistics: explicit state in, explicit state out."""

from typing import Any, Literal, NamedTuple, TypeVar, cast, overload

from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxnorm._core.arguments.validation import check_shape
from jaxnorm._core.arrays.dtypes import check_dtype, check_inexact
from jaxnorm._core.moments.moments import Moments, check_moments
from jaxnorm._core.running.momentum import Schedule, resolve_momentum
from jaxnorm._core.running.update_running import update_running


class BatchStats(NamedTuple):
    """Running statistics of one layer.

    Attributes:
      mean: Running mean, of the feature shape; float32 unless initialized otherwise.
        Starts at 0. Complex after an update with complex moments.
      var: Running variance, of the feature shape; real, otherwise like the mean. Starts
        at 1. Biased, unless it is updated with `unbiased=True`.
    """

    mean: Array
    var: Array


class CountedBatchStats(NamedTuple):
    """Running statistics that count their updates, for a schedule of the momentum.

    Attributes:
      mean: Running mean, as in `BatchStats`.
      var: Running variance, as in `BatchStats`.
      count: Number of updates so far; a float32 scalar. Starts at 0.
    """

    mean: Array
    var: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count


Shape = int | tuple[int, ...]
Stats = TypeVar("Stats", bound=BatchStats | CountedBatchStats)


@overload
def init_batch_stats(
    feature_shape: Shape, dtype: DTypeLike = ..., *, counted: Literal[False] = ...
) -> BatchStats: ...
@overload
def init_batch_stats(
    feature_shape: Shape, dtype: DTypeLike = ..., *, counted: Literal[True]
) -> CountedBatchStats: ...
@overload
def init_batch_stats(
    feature_shape: Shape, dtype: DTypeLike = ..., *, counted: bool
) -> BatchStats | CountedBatchStats: ...
def init_batch_stats(
    feature_shape: Shape, dtype: DTypeLike = jnp.float32, *, counted: bool = False
) -> BatchStats | CountedBatchStats:
    """Returns the running statistics before the first update: mean 0 and variance 1.

    Args:
      feature_shape: Sizes of the feature axes, ascending; an integer for one axis.
      dtype: Real floating dtype in which they are kept. (For complex input in a scan,
        whose state keeps its dtypes, make the mean complex with `_replace`.)
      counted: Whether to count the updates, as a momentum schedule needs.

    Returns:
      `CountedBatchStats` if `counted`, else `BatchStats`.

    Raises:
      TypeError: If `dtype` is not real and floating, or a size not an integer.
      ValueError: If a size is negative.

    Example:
      >>> import jaxnorm
      >>> jaxnorm.init_batch_stats(1)
      BatchStats(mean=Array([0.], dtype=float32), var=Array([1.], dtype=float32))
    """
    shape = check_stats_shape(feature_shape, dtype)
    mean, var = jnp.zeros(shape, dtype), jnp.ones(shape, dtype)
    if counted:
        return CountedBatchStats(mean, var, jnp.zeros((), jnp.float32))
    return BatchStats(mean, var)


def update_batch_stats(
    stats: Stats,
    moments: Moments,
    *,
    momentum: ArrayLike | Schedule = 0.99,
    unbiased: bool = False,
) -> Stats:
    """Moves running statistics towards the moments of a batch.

    The formula is::

        mean = momentum * stats.mean + (1 - momentum) * moments.mean
        var  = momentum * stats.var  + (1 - momentum) * moments.var

    A feature whose `moments.count` is 0 stays as it was. With momentum 0 the old values
    are forgotten, even if they are NaN.

    Args:
      stats: Statistics of the feature shape.
      moments: Moments of the same shape, of the whole batch.
      momentum: Weight of the old values, in [0, 1]. A number, a traced scalar
        (`n / (n + 1)` at update n from 0 makes a cumulative mean), or, with
        `CountedBatchStats`, a function of the number of updates so far.
      unbiased: Whether the variance is multiplied by count / (count - 1), 1 where count
        is at most 1: an unbiased estimate of the population's, if count is a number of
        independent elements (not if it is a sum of fractional weights).

    Returns:
      New statistics, of the same type and dtypes (a complex mean makes `mean` complex).
      No gradient flows into them.

    Raises:
      TypeError: If a schedule is given with statistics that do not count.
      ValueError: If momentum is outside [0, 1] or not a scalar, or shapes differ.

    Reference:
      Ioffe and Szegedy, 2015, Batch Normalization, section 3.1
      (https://arxiv.org/abs/1502.03167), as a moving average.

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> moments = jaxnorm.batch_moments(jnp.array([[1.0], [3.0]]))
      >>> jaxnorm.update_batch_stats(jaxnorm.init_batch_stats(1), moments, momentum=0.5)
      BatchStats(mean=Array([1.], dtype=float32), var=Array([1.], dtype=float32))
    """
    check_moments(moments, "moments")
    check_stats(stats, jnp.shape(moments.mean), jnp.result_type(moments.mean))
    running = stats._asdict()
    weight = resolve_momentum(momentum, running)
    new = update_running(running, moments, weight=weight, unbiased=unbiased)
    return cast(Stats, stats._replace(**new))


def check_stats_shape(
    feature_shape: int | tuple[int, ...], dtype: DTypeLike
) -> tuple[int, ...]:
    """Checks the shape and dtype of new running statistics; returns the shape.

    Raises:
      TypeError: If `dtype` is not real and floating, or a size not an integer.
      ValueError: If a size is negative.
    """
    if not jnp.issubdtype(check_dtype(dtype), jnp.floating):
        raise TypeError(
            f"dtype must be real and floating, got {dtype}. Use float32, whatever the "
            "dtype of the input."
        )
    return check_shape(feature_shape, "feature_shape")


def check_stats(
    stats: object, feature_shape: tuple[int, ...], dtype: DTypeLike
) -> None:
    """Checks running statistics of batch norm; see `check_running_stats`."""
    kinds, make = (BatchStats, CountedBatchStats), f"init_batch_stats({feature_shape})"
    check_running_stats(stats, kinds, make, feature_shape, dtype)


def check_running_stats(
    stats: Any,
    kinds: tuple[type[Any], ...],
    make: str,
    feature_shape: tuple[int, ...],
    dtype: DTypeLike,
) -> None:
    """Checks that running statistics have an accepted type, and fit the input.

    Args:
      stats: The argument of the user.
      kinds: The accepted types; all of their fields but `count` are statistics.
      make: Code that makes them, for the error message.
      feature_shape: The sizes of the feature axes.
      dtype: Dtype of the input, or of its mean.

    Raises:
      TypeError: If they are not running statistics, or complex for real input.
      ValueError: If one has another shape.
    """
    if not isinstance(stats, kinds):
        raise TypeError(
            f"stats must be {' or '.join(kind.__name__ for kind in kinds)}, got "
            f"{type(stats).__name__}. Make them with {make}."
        )
    for name, value in stats._asdict().items():
        if name != "count":
            own = dtype if name == "mean" else jnp.float32
            check_statistic(value, f"stats.{name}", feature_shape, own)


def check_statistic(
    value: ArrayLike, name: str, feature_shape: tuple[int, ...], dtype: DTypeLike
) -> None:
    """Checks that one running statistic has the feature shape.

    Args:
      value: The statistic that the user passed.
      name: Its name, for the error message.
      feature_shape: The sizes of the feature axes.
      dtype: A complex dtype if the statistic may be complex.

    Raises:
      TypeError: If it holds integers, or is complex and must not be.
      ValueError: If it has another shape.
    """
    check_inexact(value, name)
    if jnp.shape(value) != feature_shape:
        raise ValueError(
            f"{name} must have the feature shape {feature_shape}, got "
            f"{jnp.shape(value)}. Are feature_axes the axes you mean?"
        )
    if jnp.iscomplexobj(value) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{name} must be real for input of dtype {jnp.dtype(dtype)}, got "
            f"{jnp.result_type(value)}. Convert the input to complex, or take the real "
            "part."
        )
