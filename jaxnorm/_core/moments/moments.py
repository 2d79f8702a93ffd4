"""The moments of a batch, and of two batches together."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.align import align, align_mask
from jaxnorm._core.arguments.axes import Axes, canonical_axes, other_axes
from jaxnorm._core.arguments.validation import check_flags
from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_inexact
from jaxnorm._core.arrays.known import is_known
from jaxnorm._core.arrays.safe_math import safe_count
from jaxnorm._core.arrays.sharding import where
from jaxnorm._core.moments.compute_moments import compute_moments
from jaxnorm._core.moments.shifted_moments import ShiftedMoments
from jaxnorm._core.moments.total_variance import variance_of_two
from jaxnorm._core.reductions.collectives import Groups, MappedAxes
from jaxnorm._core.reductions.reduction import Reduction


class Moments(NamedTuple):
    """Mean and variance of each feature of a batch, and its number of elements.

    Attributes:
      count: Number of elements of each feature, or their weight; float32 or wider.
      mean: Mean of each feature; float32 or wider, complex for complex input.
      var: Biased variance (divided by `count`) of each feature, E|x - mean|^2; real.
    """

    count: Array  # type: ignore[assignment]  # hides tuple.count
    mean: Array
    var: Array


def batch_moments(
    x: Inexact[Array, "..."],
    *,
    feature_axes: Axes = -1,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    shift: Inexact[Array, "..."] | None = None,
    use_fast_variance: bool = True,
) -> Moments:
    """Computes the mean and the biased variance of each feature.

    With weights w (1 without a mask), a shift s and d = x - s::

        count = sum(w)
        mean  = s + sum(w d) / count
        var   = sum(w |d|^2) / count - |sum(w d) / count|^2

    summed over all axes but `feature_axes` and over `axis_name`, in one collective.
    Exact to rounding while s is within a few standard deviations of the mean. Further
    away the variance is clamped to at least its rounding noise, `4 eps |mean - s|^2`; a
    clamped variance has zero derivative.

    To normalize x itself, use `jaxnorm.batch_norm`, which keeps the mean in two parts.
    With these moments and `jaxnorm.normalize`, the rounding of the float32 mean
    remains: 6e-4 in the output if the mean is 1e4 standard deviations.

    Args:
      x: Input of any shape; floating or complex. Computed in float32 or wider.
      feature_axes: The axis or axes that keep their own statistics.
      mask: Broadcasts to x. Booleans and integers (nonzero) say which elements count;
        floating values are non-negative weights. Masked elements have no effect, even
        where they are NaN. Weights are not differentiated.
      axis_name: Mapped axis or axes (of `jax.pmap`, `jax.shard_map`, `jax.vmap`) over
        which to sum as well. Under `jax.jit` a sharded x needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`,
        each with separate moments.
      shift: Feature shape; a guess of the mean, 0 by default. Not differentiated.
      use_fast_variance: Whether to take one pass. False: a first pass, with its own
        collective, finds the mean, which is then the shift.

    Returns:
      Moments of the feature shape (sizes of the feature axes, ascending), float32 or
      wider. Where count is 0, mean is the shift and var 0.

    Raises:
      TypeError: If x is an integer array, or a flag is traced.
      ValueError: If an axis, the mask, the shift or the groups do not fit.

    Reference:
      Ioffe and Szegedy, 2015, Batch Normalization, algorithm 1
      (https://arxiv.org/abs/1502.03167). Chan, Golub and LeVeque, 1983, Algorithms for
      computing the sample variance, section 3 (the shift).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0], [jnp.nan, jnp.nan]])
      >>> mask = jnp.array([[True], [True], [False]])
      >>> count, mean, var = jaxnorm.batch_moments(x, mask=mask)
      >>> mean, var
      (Array([ 2., 20.], dtype=float32), Array([  1., 100.], dtype=float32))
    """
    x = check_inexact(x, "x")
    check_flags(use_fast_variance=use_fast_variance)
    features = canonical_axes(feature_axes, x.ndim)
    dtype = accumulation_dtype(x.dtype)
    reduction = Reduction(
        other_axes(features, x.ndim),
        MappedAxes.parse(axis_name, axis_index_groups, x),
    )
    if shift is None:
        shift = jnp.zeros((1,) * x.ndim, dtype)
    shift = align(check_inexact(shift, "shift"), x, features, "shift").astype(dtype)
    moments = compute_moments(
        x,
        reduction,
        mask=align_mask(mask, x),
        shift=reduction.mapped_axes.average_replicas(shift),
        use_fast_variance=use_fast_variance,
    )
    return count_of_each(per_feature(moments, x.shape, features))


def per_feature(
    moments: ShiftedMoments, shape: tuple[int, ...], feature_axes: tuple[int, ...]
) -> Moments:
    """Returns moments of the rank of x as moments of the feature shape.

    A known count stays one number for all features (see `count_of_each`), unless there
    are no features.
    """
    reduced = other_axes(feature_axes, len(shape))
    mean, var = (jnp.squeeze(value, reduced) for value in (moments.mean, moments.var))
    if is_known(moments.count) and 0 not in mean.shape:
        return Moments(np.squeeze(moments.count), mean, var)  # type: ignore[arg-type]
    # Added rather than broadcast, so that it is sharded as the variance is.
    count = jnp.squeeze(moments.count + jnp.zeros_like(moments.var), reduced)
    return Moments(count, mean, var)


def count_of_each(moments: Moments) -> Moments:
    """Returns the moments with the count broadcast to one for each feature."""
    return moments._replace(count=moments.count + jnp.zeros_like(moments.var))


def check_moments(moments: object, name: str) -> None:
    """Checks that the user passed `Moments`.

    Raises:
      TypeError: If they are not, or their mean or variance holds integers.
    """
    if not isinstance(moments, Moments):
        raise TypeError(
            f"{name} must be Moments, got {type(moments).__name__}. Make them with "
            "batch_moments(x), or Moments(count, mean, var)."
        )
    check_inexact(moments.mean, f"{name}.mean")
    check_inexact(moments.var, f"{name}.var")


def merge_moments(a: Moments, b: Moments) -> Moments:
    """Merges the moments of two batches into the moments of both together.

    With d = b.mean - a.mean and n = a.count + b.count::

        count = n
        mean  = a.mean + d b.count / n
        var   = (a.count a.var + b.count b.var) / n + |d|^2 a.count b.count / n^2

    Associative and commutative up to rounding; moments of count 0 change nothing,
    whatever their mean and variance. `functools.reduce`, `jax.lax.scan` and
    `jax.lax.associative_scan` merge many.

    Args:
      a: Moments of one batch; arrays of any shape.
      b: Moments of the other, of the same shape.

    Returns:
      Moments of the same shape; the variance is biased, as in `a` and `b`.

    Raises:
      TypeError: If one is not a `Moments`.
      ValueError: If the shapes differ.

    Reference:
      Chan, Golub and LeVeque, 1979, Updating formulae and a pairwise algorithm for
      computing sample variances, section 2.

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0], [3.0], [5.0], [7.0]])
      >>> parts = jaxnorm.batch_moments(x[:2]), jaxnorm.batch_moments(x[2:])
      >>> count, mean, var = jaxnorm.merge_moments(*parts)
      >>> mean, var
      (Array([4.], dtype=float32), Array([5.], dtype=float32))
    """
    check_moments(a, "a")
    check_moments(b, "b")
    if jnp.shape(a.mean) != jnp.shape(b.mean):
        raise ValueError(
            f"moments must have the same shape to be merged, got {jnp.shape(a.mean)} "
            f"and {jnp.shape(b.mean)}. Are they of the same features?"
        )
    # a has at least half of the count, so that 1 - weight does not cancel.
    more = a.count >= b.count
    a, b = _choose(more, a, b), _choose(more, b, a)
    count = a.count + b.count
    weight = b.count / safe_count(count)
    # Moments of count 0 may hold any numbers. Selected before any arithmetic, so that
    # they reach no derivative either.
    nonempty = b.count > 0
    b_mean, b_var = (where(nonempty, v, jnp.zeros_like(v)) for v in (b.mean, b.var))
    difference = b_mean - where(nonempty, a.mean, jnp.zeros_like(a.mean))
    mean = a.mean + difference * weight.astype(difference.dtype)
    return Moments(count, mean, variance_of_two(a.var, b_var, difference, weight))


def _choose(condition: Array, yes: Moments, no: Moments) -> Moments:
    """Returns `yes` where the condition holds, and `no` elsewhere."""
    return jax.tree.map(lambda y, n: where(condition, y, n), yes, no)
