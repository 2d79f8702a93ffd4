"""Batch normalization."""

from collections.abc import Sequence

from jax import Array
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.running.momentum import Schedule
from jaxnorm._core.running.stats import Stats, check_stats


def batch_norm(
    x: Inexact[Array, "..."],
    stats: Stats,
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    use_running_average: bool,
    momentum: ArrayLike | Schedule = 0.99,
    epsilon: float = 1e-5,
    feature_axes: Axes = -1,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    use_fast_variance: bool = True,
    unbiased: bool = False,
    skip_nonfinite: bool = False,
    dtype: DTypeLike | None = None,
) -> tuple[Array, Stats]:
    """Normalizes each feature over the batch, and updates the running statistics.

    In training (`use_running_average=False`), with the batch's mean and biased variance
    over all axes but `feature_axes`, the elements of `mask`, and `axis_name`::

        y         = (x - mean) / sqrt(var + epsilon) * scale + bias
        new_stats = momentum * stats + (1 - momentum) * (mean, var)

    Gradients flow through mean and var, but not into `new_stats`. In inference, the
    running statistics replace mean and var, and `new_stats is stats`.

    You make three independent choices: `use_running_average` selects the statistics
    that normalize; you keep `new_stats` or drop them; and your optimizer decides
    whether scale and bias are trained.

    Args:
      x: Input of any shape; floating or complex. Statistics are computed in float32 or
        wider.
      stats: Running statistics of the feature shape (sizes of the feature axes,
        ascending), from `init_batch_stats`. In training, their mean is subtracted from
        x before squaring, so that large means cost no accuracy; 0 replaces a mean that
        is not finite.
      scale: Feature shape, or the rank of x with 1 where shared (one per example:
        conditional normalization); 1 where None.
      bias: Same shapes as scale; 0 where None.
      use_running_average: False in training, True in inference; a Python bool.
      momentum: Weight of the old statistics, in [0, 1]: a number, a traced scalar, or,
        with counted statistics, a function of the number of updates.
      epsilon: Added to the variance; at least 0. If both are 0, y is the bias.
      feature_axes: The axis or axes that keep their own statistics.
      mask: Broadcasts to x. Booleans and integers (nonzero) say which elements count;
        floating values are non-negative weights, not differentiated. Masked elements do
        not affect statistics. They are normalized like the others; if they are not
        finite (or too large to be squared), the output is `bias`, with no gradient.
        Features without valid elements are normalized by the running statistics, which
        do not change.
      axis_name: Mapped axis or axes (of `jax.pmap`, `jax.shard_map`, `jax.vmap`) over
        which statistics are shared: one collective forward and one backward. Under
        `jax.jit` a sharded x needs none, and its statistics are global. Running
        statistics that differ between replicas (in pmap) are averaged first, over their
        finite values.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`,
        each with separate statistics.
      use_fast_variance: One pass over x. Its variance is exact to rounding while the
        running mean is within a few standard deviations of the batch mean. Further
        away, its error is up to 4 eps (mean - stats.mean)^2 in either direction, and
        the variance is clamped to at least that value. The largest error of y is 2e-4
        at a distance of 30 standard deviations, and 0.2 at 1,000; beyond that y is too
        small, until the running mean approaches the batch mean. False: two passes and
        two collectives; exact, whatever the running statistics.
      unbiased: Whether running variances average batch variances times n / (n - 1).
      skip_nonfinite: Whether to keep all old statistics of the layer if the mean or the
        variance of the batch, or a new statistic, is not finite in any feature. It does
        not affect y.
      dtype: Dtype of y; by default what x, scale and bias promote to. Every other
        dtype takes precedence over 8-bit floats.

    Returns:
      y of the shape of x, and the new statistics, of the type and dtypes of `stats`
      (complex x makes the mean complex).

    Raises:
      TypeError: If x is an integer array, a flag is traced, `dtype` is real for complex
        input, or momentum is a function and `stats` do not count.
      ValueError: If a shape, an axis or the groups do not fit, momentum is outside
        [0, 1], epsilon is negative, or `unbiased` is combined with fractional weights.
      NameError: If `axis_name` is not bound.

    Reference:
      Ioffe and Szegedy, 2015, Batch Normalization, algorithms 1 and 2
      (https://arxiv.org/abs/1502.03167).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
      >>> stats = jaxnorm.init_batch_stats(2)
      >>> y, stats = jaxnorm.batch_norm(
      ...     x, stats, use_running_average=False, momentum=0.5
      ... )
      >>> y.round(3)
      Array([[-1., -1.],
             [ 1.,  1.]], dtype=float32)
      >>> stats.mean, stats.var
      (Array([ 1., 10.], dtype=float32), Array([ 1. , 50.5], dtype=float32))
    """
    call = BatchCall.from_options(
        x,
        scale,
        bias,
        {
            "use_running_average": use_running_average,
            "momentum": momentum,
            "epsilon": epsilon,
            "feature_axes": feature_axes,
            "mask": mask,
            "axis_name": axis_name,
            "axis_index_groups": axis_index_groups,
            "use_fast_variance": use_fast_variance,
            "unbiased": unbiased,
            "skip_nonfinite": skip_nonfinite,
            "dtype": dtype,
        },
    )
    check_stats(stats, call.feature_shape, call.x.dtype)
    if use_running_average:
        return call.normalize(stats.mean, stats.var), stats

    running = call.average_replicas(stats)
    moments = call.compute_moments(running.mean)
    y = call.standardize(moments.with_var_where_empty(call.align(running.var)))
    return y, call.update(running, call.per_feature(moments))
