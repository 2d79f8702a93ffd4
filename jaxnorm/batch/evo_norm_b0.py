"""EvoNorm B0: normalization by batch and instance, and the activation, in one."""

from typing import Unpack

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from jaxnorm._core.arguments.align import align_parameter
from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_real
from jaxnorm._core.arrays.safe_math import safe_sqrt
from jaxnorm._core.arrays.sharding import where
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.moments.moments import Moments
from jaxnorm._core.reductions.masking import zero_masked_nonfinite
from jaxnorm._core.running.single_stats import OfVar, check_var_stats
from jaxnorm.batch.instances import compute_moments_without_shift


def evo_norm_b0(
    x: Float[Array, "batch ..."],
    stats: OfVar,
    v: Float[Array, "..."],
    scale: Float[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    **options: Unpack[BatchOptions],
) -> tuple[Array, OfVar]:
    """Divides by the batch deviation, or by the instance deviation plus v x if larger.

    In training, with the biased variance var_b of each feature over the batch, and
    var_i of each feature of each example over space; the mean is not subtracted::

        y = x / max(sqrt(var_b + epsilon), v x + sqrt(var_i + epsilon)) * scale + bias
        new_stats = momentum * stats + (1 - momentum) * var_b

    In inference, the running variance replaces var_b. The quotient acts as an
    activation function, so no other should follow.

    Args:
      x: Input of shape (batch, ...); real. Computed in float32 or wider.
      stats: The running variance, of the feature shape, from `init_var_stats`.
      v: Slope of the instance term: feature shape, or the rank of x with 1 where
        shared, or a scalar; initially ones.
      scale: Feature shape, or the rank of x with 1 where shared; 1 where None.
      bias: Same shapes as scale; 0 where None.
      **options: As in `jaxnorm.batch_norm`: `use_running_average`, which must be given,
        and the others. If all elements of a feature of an example are masked, its y is
        the bias. Without a running mean as the shift, the error of the variance between
        examples is up to 4 eps mean^2 with `use_fast_variance`. With False, another
        pass and another collective for the mean avoid this error.

    Returns:
      y of the shape of x, and the new statistics; `stats` itself in inference. One
      collective forward and one backward.

    Raises:
      TypeError: If x is not real and floating, or as in `jaxnorm.batch_norm`.
      ValueError: As in `jaxnorm.batch_norm`.

    Reference:
      Liu et al., 2020, Evolving Normalization-Activation Layers, table 3, B0
      (https://arxiv.org/abs/2004.02967).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm
      >>> @jax.jit
      ... def train(x, stats, v):
      ...     return jaxnorm.evo_norm_b0(x, stats, v, use_running_average=False)
      >>> x = jnp.array([[[-1.0], [1.0]]])
      >>> y, stats = train(x, jaxnorm.init_var_stats(1), jnp.ones(1))
      >>> y[0, :, 0].round(2)
      Array([-1. ,  0.5], dtype=float32)
    """
    call = BatchCall.from_options(x, scale, bias, options)
    check_real("two divisors are compared", x=call.x)
    v = align_parameter(v, "v", call.x, call.features)
    check_var_stats(stats, call.feature_shape, call.x.dtype)
    running = stats if call.use_running_average else call.average_replicas(stats)

    def normalize(call: BatchCall) -> tuple[Array, Moments | None]:
        instances, batch = compute_moments_without_shift(call)
        var, moments = call.align(running.var), None
        if batch is not None:
            var, moments = batch.with_var_where_empty(var).var, call.per_feature(batch)
        dtype = accumulation_dtype(call.spec.dtype, call.x.dtype)
        epsilon, scale, bias = call.spec.epsilon, call.scale, call.bias
        x = zero_masked_nonfinite(call.mask, call.x, call.x).astype(dtype)
        x = where(instances.count > 0, x, jnp.zeros_like(x))
        batch_std = safe_sqrt(var.astype(dtype) + epsilon)
        own = v.astype(dtype) * x + safe_sqrt(instances.var.astype(dtype) + epsilon)
        divisor = jnp.maximum(batch_std, own)
        if epsilon == 0:  # over 0, the bias
            x = where(divisor == 0, jnp.zeros_like(x), x)
            divisor = where(divisor == 0, jnp.ones_like(divisor), divisor)
        y = x / divisor * scale.astype(dtype) + bias.astype(dtype)
        return y.astype(call.spec.dtype), moments

    y, moments = call.rematerialize(normalize)
    return y, stats if moments is None else call.update(running, moments)
