"""EvoNorm B0: normalization by batch and instance, and the activation, in one."""

from typing import Unpack

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float

from jaxnorm.batch.call import BatchCall, BatchOptions
from jaxnorm.batch.instances import as_a_whole, measure_spread
from jaxnorm.core.average import average, resolve_momentum, unbiased_factor
from jaxnorm.core.dtypes import accumulation_dtype
from jaxnorm.core.masks import keep_usable
from jaxnorm.core.moments import Moments
from jaxnorm.core.parameters import real_parameter
from jaxnorm.core.sharding import where
from jaxnorm.core.stats import check_statistic
from jaxnorm.core.validation import check_real


def evo_norm_b0(
    x: Float[Array, "batch ..."],
    running_var: Float[Array, "..."],
    v: Float[Array, "..."],
    scale: Float[Array, "..."] | None = None,
    bias: Float[Array, "..."] | None = None,
    **options: Unpack[BatchOptions],
) -> tuple[Array, Array]:
    """Divides by the larger of the batch's deviation and the example's own, plus v x.

    In training, with the biased variance var_b of each feature over the batch, and
    var_i of each feature of each example over space; the mean is not subtracted::

        y = x / max(sqrt(var_b + epsilon), v x + sqrt(var_i + epsilon)) * scale + bias
        new_running_var = momentum * running_var + (1 - momentum) * var_b

    In inference the running variance takes the place of var_b. The quotient bends like
    an activation, so that none follows.

    Args:
      x: Input of shape (batch, ...); real. Computed in float32 or wider.
      running_var: Feature shape; ones at the start, in float32.
      v: Slope of the own term: feature shape, or the rank of x with 1 where shared, or
        a scalar; ones at the start.
      scale: Likewise; 1 where None.
      bias: Likewise; 0 where None.
      **options: As in `jaxnorm.batch_norm`: `use_running_average`, which must be given,
        and the others. `momentum` is a number. An example's feature that has no valid
        element comes out as bias. There is no running mean to shift by: with
        `use_fast_variance` the variance between examples is off by up to 4 eps mean^2;
        without, a first pass, and a collective, for the mean cures that.

    Returns:
      y of the shape of x, and the new running variance; `running_var` itself in
      inference. One collective forward and one backward.

    Raises:
      TypeError: If x is not real and floating, or as in `jaxnorm.batch_norm`.
      ValueError: As in `jaxnorm.batch_norm`.

    Reference:
      Liu et al., 2020, Evolving Normalization-Activation Layers, table 3, B0
      (https://arxiv.org/abs/2004.02967).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm
      >>> @jax.jit
      ... def train(x, running_var, v):
      ...     return jaxnorm.evo_norm_b0(x, running_var, v, use_running_average=False)
      >>> x = jnp.array([[[-1.0], [1.0]]])
      >>> y, running_var = train(x, jnp.ones(1), jnp.ones(1))
      >>> y[0, :, 0].round(2)
      Array([-1. ,  0.5], dtype=float32)
    """
    call = BatchCall.parse(x, scale, bias, **options)
    check_real("two divisors are compared", x=call.x)
    v = real_parameter(v, "v", call.x, call.features)
    running_var = jnp.asarray(running_var)
    check_statistic(running_var, "running_var", call.feature_shape, call.x.dtype)
    running = running_var if call.use_running_average else call.agree(running_var)

    def normalize(call: BatchCall) -> tuple[Array, Moments | None]:
        instances, batch = measure_spread(call)
        var, moments = call.align(running), None
        if batch is not None:
            var, moments = batch.or_where_empty(var).var, call.per_feature(batch)
        dtype = accumulation_dtype(call.spec.dtype, call.x.dtype)
        epsilon, scale, bias = call.spec.epsilon, call.scale, call.bias
        x = keep_usable(call.mask, call.x, call.x).astype(dtype)
        x = where(instances.count > 0, x, jnp.zeros_like(x))
        batch_std = jnp.sqrt(var.astype(dtype) + epsilon)
        own = v.astype(dtype) * x + jnp.sqrt(instances.var.astype(dtype) + epsilon)
        y = x / jnp.maximum(batch_std, own) * scale.astype(dtype) + bias.astype(dtype)
        return y.astype(call.spec.dtype), moments

    y, moments = as_a_whole(call, normalize)
    if moments is None:
        return y, running_var
    factor = unbiased_factor(moments.count) if call.unbiased else 1.0
    new = average(
        running,
        moments.var * factor,
        weight=resolve_momentum(call.momentum, running),
        seen=moments.count > 0,
    )
    return y, call.keep_if_skipped(moments.var, new, running)
