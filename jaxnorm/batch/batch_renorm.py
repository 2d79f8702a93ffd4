"""Batch renormalization."""

import dataclasses
from typing import NamedTuple, Unpack

import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Inexact

from jaxnorm._core.arguments.validation import check_scalar, check_shape
from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_real
from jaxnorm._core.arrays.sharding import where
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.moments.shifted_moments import ShiftedMoments
from jaxnorm._core.running.momentum import Schedule, evaluate_schedule
from jaxnorm._core.running.stats import check_running_stats


class RenormStats(NamedTuple):
    """Running statistics of a batch renormalization layer.

    Attributes:
      mean: Running mean, of the feature shape; float32. Starts at 0.
      std: Running mean of sqrt(var + epsilon); same shape and dtype. Starts at 1.
      count: Number of updates so far; a float32 scalar. Starts at 0.
    """

    mean: Array
    std: Array
    count: Array  # type: ignore[assignment]  # hides tuple.count


def init_renorm_stats(feature_shape: int | tuple[int, ...]) -> RenormStats:
    """Returns the statistics before the first update: mean 0, std 1 and count 0.

    Args:
      feature_shape: Sizes of the feature axes, ascending; an integer for one axis.

    Example:
      >>> import jaxnorm
      >>> jaxnorm.init_renorm_stats(1).std
      Array([1.], dtype=float32)
    """
    shape = check_shape(feature_shape, "feature_shape")
    mean, std = jnp.zeros(shape), jnp.ones(shape)
    return RenormStats(
        mean.astype(jnp.float32), std.astype(jnp.float32), jnp.zeros((), jnp.float32)
    )


def batch_renorm(
    x: Inexact[Array, "..."],
    stats: RenormStats,
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    r_max: ArrayLike | Schedule,
    d_max: ArrayLike | Schedule,
    **options: Unpack[BatchOptions],
) -> tuple[Array, RenormStats]:
    """Normalizes by the batch, corrected towards the running statistics.

    In training, with mean and std = sqrt(var + epsilon) of the batch::

        r = clip(std / stats.std, 1 / r_max, r_max)
        d = clip((mean - stats.mean) / stats.std, -d_max, d_max)
        y = ((x - mean) / std * r + d) * scale + bias
        new_stats = momentum * stats + (1 - momentum) * (mean, std)

    The running std is clamped to at least sqrt(epsilon), the smallest std of a batch.
    In inference, `y = (x - stats.mean) / stats.std * scale + bias`. Training computes
    the same where r and d are not clipped, so training and inference agree even for
    small or biased batches. Gradients flow through mean and std, not through r and d.

    With `r_max=1, d_max=0`, this is batch norm. After few updates, the running
    statistics are inaccurate, and so are the corrections: `warmup_renorm()` increases
    their bounds step by step.

    Args:
      x: Input of any shape; real.
      stats: Running statistics, from `init_renorm_stats`. Features with running
        statistics that are not finite, or without valid elements, are not corrected.
      scale: Feature shape, or the rank of x with 1 where shared; 1 where None.
      bias: Same shapes as scale; 0 where None.
      r_max: Bound of the correction of scale, at least 1: a number, a traced scalar,
        or a function of the number of updates so far.
      d_max: Bound of the correction of the mean, in standard deviations, at least 0; a
        number, a traced scalar or a function, like `r_max`.
      **options: As in `jaxnorm.batch_norm`: `use_running_average`, which must be given,
        and `momentum` (which the paper sets to 0.99), `epsilon`, `feature_axes`,
        `mask`, `axis_name`, `axis_index_groups`, `use_fast_variance`, `skip_nonfinite`
        and `dtype`. `momentum` may be a function of the number of updates. A masked
        element that is not finite gets the output of the batch mean.

    Returns:
      y of the shape of x, and the new statistics; `stats` itself in inference. One
      collective forward and one backward.

    Raises:
      TypeError: If x is not real and floating, or a flag is traced.
      ValueError: If r_max is below 1, d_max below 0, `unbiased` is True, or as in
        `jaxnorm.batch_norm`.

    Reference:
      Ioffe, 2017, Batch Renormalization, algorithm 1
      (https://arxiv.org/abs/1702.03275).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm
      >>> @jax.jit
      ... def train(x, stats):
      ...     return jaxnorm.batch_renorm(
      ...         x, stats, r_max=3.0, d_max=5.0, use_running_average=False
      ...     )
      >>> x, stats = jnp.array([[1.0], [3.0]]), jaxnorm.init_renorm_stats(1)
      >>> y, stats = train(x, stats)
      >>> y.round()  # as the running mean 0 and std 1 give it
      Array([[1.],
             [3.]], dtype=float32)
      >>> stats.mean.round(2), stats.count
      (Array([0.02], dtype=float32), Array(1., dtype=float32))
    """
    call = BatchCall.from_options(x, scale, bias, options)
    check_real("the correction of the mean is clipped", x=call.x)
    if call.unbiased:
        raise ValueError(
            "unbiased must be False, since r compares the running std with that which "
            "normalizes the batch, got True."
        )
    make = f"init_renorm_stats({call.feature_shape})"
    check_running_stats(stats, (RenormStats,), make, call.feature_shape, call.x.dtype)
    r_max = _evaluate_bound(r_max, "r_max", 1.0, stats.count)
    d_max = _evaluate_bound(d_max, "d_max", 0.0, stats.count)
    epsilon = call.spec.epsilon
    if call.use_running_average:
        std = stats.std.astype(accumulation_dtype(call.x.dtype))
        var = _clamp_std(std, epsilon) ** 2
        return call.normalize(stats.mean, var, epsilon=0.0), stats

    running = call.average_replicas(stats)
    moments = call.compute_moments(running.mean)
    batch = call.per_feature(moments)
    running_std = call.align(running.std).astype(moments.var.dtype)
    running_std = _clamp_std(running_std, epsilon)
    r, d = lax.stop_gradient(
        _corrections(
            moments, call.align(running.mean), running_std, r_max, d_max, epsilon
        )
    )
    scale, bias = call.scale.astype(r.dtype), call.bias.astype(r.dtype)
    y = dataclasses.replace(call, scale=scale * r, bias=bias + scale * d).standardize(
        moments.with_var_where_empty(running_std**2 - epsilon)
    )
    return y, call.update(running, batch)


def _corrections(
    moments: ShiftedMoments,
    running_mean: Array,
    running_std: Array,
    r_max: Array,
    d_max: Array,
    epsilon: float,
) -> tuple[Array, Array]:
    """Returns r and d; 1 and 0 without valid elements or usable running statistics."""
    running_mean = running_mean.astype(moments.shift.dtype)
    comparable = (moments.count > 0) & jnp.isfinite(running_mean)
    comparable &= jnp.isfinite(running_std) & (running_std > 0)
    std = jnp.sqrt(moments.var + epsilon)
    # Shift and running mean are the same number as a rule, so that nothing is rounded.
    difference = (moments.shift - running_mean) + moments.delta
    r_max, d_max = r_max.astype(std.dtype), d_max.astype(std.dtype)
    r = jnp.clip(std / running_std, 1 / r_max, r_max)
    d = jnp.clip(difference / running_std, -d_max, d_max)
    one, zero = jnp.ones_like(r), jnp.zeros_like(d)
    return where(comparable, r, one), where(comparable, d, zero)


def _clamp_std(std: Array, epsilon: float) -> Array:
    """Returns `std`, clamped to at least sqrt(epsilon), the smallest std of a batch."""
    return jnp.maximum(std, jnp.asarray(epsilon**0.5, std.dtype))


def _evaluate_bound(
    value: ArrayLike | Schedule, name: str, least: float, count: Array
) -> Array:
    """Returns `r_max` or `d_max` as an array, checked to be at least `least`."""
    if callable(value):
        value = evaluate_schedule(value, count, name)
    known = check_scalar(value, name)
    if isinstance(known, np.ndarray) and not known >= least:
        raise ValueError(f"{name} must be at least {least:g}, got {value}.")
    array = jnp.asarray(value)
    return array.astype(accumulation_dtype(array.dtype))
