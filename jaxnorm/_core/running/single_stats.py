"""Running statistics of normalizers that keep only a mean, or only a variance."""

from typing import Literal, NamedTuple, TypeVar, overload

from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm._core.running.stats import Shape, check_running_stats, check_stats_shape


class MeanStats(NamedTuple):
    """The running mean of one layer.

    Attributes:
      mean: Running mean, of the feature shape; float32 unless initialized otherwise.
        Starts at 0. Complex after an update with complex input.
    """

    mean: Array


class CountedMeanStats(NamedTuple):
    """A running mean with the number of its updates, on which momentum may depend.

    Attributes:
      mean: Running mean, as in `MeanStats`.
      count: Number of updates so far; a float32 scalar. Starts at 0.
    """

    mean: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count


class VarStats(NamedTuple):
    """The running variance of one layer.

    Attributes:
      var: Running variance, of the feature shape; real, float32 unless initialized
        otherwise. Starts at 1. The biased estimate, unless updated with
        `unbiased=True`.
    """

    var: Array


class CountedVarStats(NamedTuple):
    """A running variance with the number of its updates, on which momentum may depend.

    Attributes:
      var: Running variance, as in `VarStats`.
      count: Number of updates so far; a float32 scalar. Starts at 0.
    """

    var: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count


OfMean = TypeVar("OfMean", bound=MeanStats | CountedMeanStats)
OfVar = TypeVar("OfVar", bound=VarStats | CountedVarStats)


@overload
def init_mean_stats(
    feature_shape: Shape, dtype: DTypeLike = ..., *, counted: Literal[False] = ...
) -> MeanStats: ...
@overload
def init_mean_stats(
    feature_shape: Shape, dtype: DTypeLike = ..., *, counted: bool
) -> MeanStats | CountedMeanStats: ...
def init_mean_stats(
    feature_shape: Shape, dtype: DTypeLike = jnp.float32, *, counted: bool = False
) -> MeanStats | CountedMeanStats:
    """Returns the running mean before the first update: 0.

    Args:
      feature_shape: Sizes of the feature axes, ascending; an integer for one axis.
      dtype: Real floating dtype in which it is kept. (For complex input in a scan,
        whose state keeps its dtypes, make the mean complex with `_replace`.)
      counted: Whether to count the updates, as a momentum schedule needs.

    Returns:
      `CountedMeanStats` if `counted`, else `MeanStats`.

    Raises:
      TypeError: If `dtype` is not real and floating, or a size not an integer.
      ValueError: If a size is negative.

    Example:
      >>> import jaxnorm
      >>> jaxnorm.init_mean_stats(1)
      MeanStats(mean=Array([0.], dtype=float32))
    """
    mean = jnp.zeros(check_stats_shape(feature_shape, dtype), dtype)
    if counted:
        return CountedMeanStats(mean, jnp.zeros((), jnp.float32))
    return MeanStats(mean)


@overload
def init_var_stats(
    feature_shape: Shape, dtype: DTypeLike = ..., *, counted: Literal[False] = ...
) -> VarStats: ...
@overload
def init_var_stats(
    feature_shape: Shape, dtype: DTypeLike = ..., *, counted: bool
) -> VarStats | CountedVarStats: ...
def init_var_stats(
    feature_shape: Shape, dtype: DTypeLike = jnp.float32, *, counted: bool = False
) -> VarStats | CountedVarStats:
    """Returns the running variance before the first update: 1.

    Args:
      feature_shape: Sizes of the feature axes, ascending; an integer for one axis.
      dtype: Real floating dtype in which it is kept.
      counted: Whether to count the updates, as a momentum schedule needs.

    Returns:
      `CountedVarStats` if `counted`, else `VarStats`.

    Raises:
      TypeError: If `dtype` is not real and floating, or a size not an integer.
      ValueError: If a size is negative.

    Example:
      >>> import jaxnorm
      >>> jaxnorm.init_var_stats(1)
      VarStats(var=Array([1.], dtype=float32))
    """
    var = jnp.ones(check_stats_shape(feature_shape, dtype), dtype)
    if counted:
        return CountedVarStats(var, jnp.zeros((), jnp.float32))
    return VarStats(var)


def check_mean_stats(
    stats: object, feature_shape: tuple[int, ...], dtype: DTypeLike
) -> None:
    """Checks a running mean that the user passed; see `check_running_stats`."""
    check_running_stats(
        stats,
        (MeanStats, CountedMeanStats),
        f"init_mean_stats({feature_shape}), or pass jaxnorm.MeanStats(running_mean)",
        feature_shape,
        dtype,
    )


def check_var_stats(
    stats: object, feature_shape: tuple[int, ...], dtype: DTypeLike
) -> None:
    """Checks a running variance that the user passed; see `check_running_stats`."""
    check_running_stats(
        stats,
        (VarStats, CountedVarStats),
        f"init_var_stats({feature_shape}), or pass jaxnorm.VarStats(running_var)",
        feature_shape,
        dtype,
    )
