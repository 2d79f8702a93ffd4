"""Adaptive, instance-aware batch normalization."""

import math
from typing import Unpack

from jax import Array
from jax import numpy as jnp
from jaxtyping import Inexact

from jaxnorm._core.arguments.validation import check_number
from jaxnorm._core.arrays.dtypes import check_real
from jaxnorm._core.arrays.safe_math import safe_sqrt
from jaxnorm._core.arrays.sharding import where
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.moments.moments import Moments
from jaxnorm._core.moments.shifted_moments import ShiftedMoments
from jaxnorm._core.running.stats import Stats, check_stats
from jaxnorm._core.running.update_running import unbiased_factor
from jaxnorm.batch.batch_norm import batch_norm
from jaxnorm.batch.instances import compute_moments_to_mix


def adaptive_batch_norm(
    x: Inexact[Array, "batch ..."],
    stats: Stats,
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    strength: float = 4.0,
    **options: Unpack[BatchOptions],
) -> tuple[Array, Stats]:
    """Normalizes by the batch, corrected for examples that clearly do not belong to it.

    For each feature of each example, m_i and v_i are the mean and the unbiased variance
    over its L positions in space; m and v are the moments of the batch (in inference,
    the running statistics)::

        s    = strength * sqrt((v + epsilon) / L)
        t    = strength * (v + epsilon) * sqrt(2 / (L - 1))
        mean = clip(m, m_i - s, m_i + s)
        var  = clip(v, v_i - t, v_i + t)
        y    = (x - mean) / sqrt(var + epsilon) * scale + bias

    The thresholds s and t are `strength` standard deviations of the mean and the
    variance of L independent Gaussian numbers, so that differences within the sampling
    noise are not corrected. (The paper soft-shrinks the differences, and adds m and v,
    which is equivalent.) After a relu the noise is larger, and far more features are
    corrected.

    Args:
      x: Input of shape (batch, ..., features); real. If L is below 2, as without
        spatial axes, this is plain batch norm.
      stats: Running statistics, as in `jaxnorm.batch_norm`.
      scale: Feature shape, or the rank of x with 1 where shared; 1 where None.
      bias: Same shapes as scale; 0 where None.
      strength: At least 0. With 0, this is instance norm with the unbiased variance;
        with infinity, batch norm.
      **options: As in `jaxnorm.batch_norm`; running statistics are updated as there.
        With a mask, L is the number of valid elements, or the sum of their weights.

    Returns:
      y of the shape of x, and the new statistics; `stats` itself in inference. One
      collective forward and one backward.

    Raises:
      TypeError: If x is not real, strength is not a number, or as in `batch_norm`.
      ValueError: If strength is negative or NaN, or as in `batch_norm`.

    Reference:
      Gong et al., 2022, NOTE: Robust Continual Test-time Adaptation Against Temporal
      Correlation, section 3.1 (https://arxiv.org/abs/2208.05117).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm
      >>> @jax.jit
      ... def infer(x, stats):
      ...     return jaxnorm.adaptive_batch_norm(x, stats, use_running_average=True)
      >>> x = jnp.array([[-1.0, 1.0] * 50, [99.0, 101.0] * 50])  # the second is far off
      >>> y, _ = infer(x[..., None], jaxnorm.init_batch_stats(1))
      >>> jnp.abs(y[1]).max() < 2
      Array(True, dtype=bool)
    """
    strength = check_number(strength, "strength", least=0.0)
    call = BatchCall.from_options(x, scale, bias, options)
    check_stats(stats, call.feature_shape, call.x.dtype)
    check_real("differences of means are compared with a threshold", x=call.x)
    if math.isinf(strength):
        return batch_norm(x, stats, scale, bias, **options)
    running = stats if call.use_running_average else call.average_replicas(stats)

    def correct(call: BatchCall) -> tuple[Array, Moments | None]:
        instances, reference, batch = compute_moments_to_mix(call, running)
        return _normalize(call, instances, reference, strength), batch

    y, batch = call.rematerialize(correct)
    return y, stats if batch is None else call.update(running, batch)


def _normalize(
    call: BatchCall,
    instances: ShiftedMoments,
    reference: ShiftedMoments,
    strength: float,
) -> Array:
    """Returns x normalized by the moments of the batch, clipped to its instance's."""
    # One position has no variance, and no position no mean.
    known = instances.count >= 2
    number = where(known, instances.count, 2)
    var = reference.var.astype(instances.var.dtype)
    noise = var + call.spec.epsilon
    mean_limit = strength * safe_sqrt(noise / number)
    var_limit = strength * noise * jnp.sqrt(2 / (number - 1))
    own_var = instances.var * unbiased_factor(number)
    # Not the batch's plus a difference, which cancels where the example's is small.
    batch_delta, batch_var = reference.delta, var
    if strength == 0:  # clip shares its gradient between values that are equal
        batch_delta, batch_var = instances.delta, own_var
    delta = _clip_to_within(batch_delta, instances.delta, mean_limit)
    delta = where(known, delta, reference.delta)
    var = where(known, _clip_to_within(batch_var, own_var, var_limit), var)
    return call.normalize(delta, var, shift=instances.shift)


def _clip_to_within(batch: Array, own: Array, limit: Array) -> Array:
    """Returns `batch`, clipped to lie within `limit` of `own`."""
    return jnp.clip(batch, own - limit, own + limit)
