"""Switchable normalization."""

from typing import Unpack

import jax
from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Inexact

from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_inexact, real_dtype
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.moments.moments import Moments
from jaxnorm._core.moments.pooling import pool_moments_about_mean
from jaxnorm._core.reductions.collectives import MappedAxes
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.running.stats import Stats, check_stats
from jaxnorm.batch.instances import compute_moments_to_mix


def switchable_norm(
    x: Inexact[Array, "batch ..."],
    stats: Stats,
    mean_logits: Float[Array, "..."],
    var_logits: Float[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    **options: Unpack[BatchOptions],
) -> tuple[Array, Stats]:
    """Normalizes by a learned mixture of instance, layer and batch statistics.

    With a = softmax(mean_logits) and b = softmax(var_logits), the means and biased
    variances of each feature of each example (in), of each example (ln), and of each
    feature over the batch (bn; in inference the running ones)::

        mean = a[0] mean_in + a[1] mean_ln + a[2] mean_bn
        var  = b[0] var_in  + b[1] var_ln  + b[2] var_bn
        y    = (x - mean) / sqrt(var + epsilon) * scale + bias

    x is read once for all three: the moments of layer and batch are those of the
    instances, merged.

    Args:
      x: Input of shape (batch, ..., features); floating or complex. Without axes for
        space, an instance is one number, and its variance 0.
      stats: Running statistics of the batch part, as in `jaxnorm.batch_norm`.
      mean_logits: (3,), in the order instance, layer, batch; equal at the start.
      var_logits: Likewise.
      scale: Feature shape, or the rank of x with 1 where shared; 1 where None.
      bias: Likewise; 0 where None.
      **options: As in `jaxnorm.batch_norm`. An example's feature without a valid
        element comes out as bias.

    Returns:
      y of the shape of x, and the new statistics, which are batch norm's; `stats`
      itself in inference. One collective forward and one backward.

    Raises:
      TypeError: As in `jaxnorm.batch_norm`.
      ValueError: If there are not three logits, or as in `jaxnorm.batch_norm`.

    Reference:
      Luo et al., 2019, Differentiable Learning-to-Normalize via Switchable
      Normalization, equations 3 to 5 (https://arxiv.org/abs/1806.10779).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[[1.0], [3.0]], [[10.0], [30.0]]])
      >>> instance = jnp.array([100.0, 0.0, 0.0])  # instance norm only
      >>> y, _ = jaxnorm.switchable_norm(
      ...     x, jaxnorm.init_batch_stats(1), instance, instance,
      ...     use_running_average=False,
      ... )
      >>> y[..., 0].round(3)
      Array([[-1.,  1.],
             [-1.,  1.]], dtype=float32)
    """
    call = BatchCall.from_options(x, scale, bias, options)
    check_stats(stats, call.feature_shape, call.x.dtype)
    mean_share = _shares(mean_logits, "mean_logits", call.x)
    var_share = _shares(var_logits, "var_logits", call.x)
    running = stats if call.use_running_average else call.average_replicas(stats)

    def mix(call: BatchCall) -> tuple[Array, Moments | None]:
        instances, reference, batch = compute_moments_to_mix(call, running)
        # About its own mean: features may lie far apart, and some be masked out of it.
        across_features = Reduction(call.features, MappedAxes.none())
        zero = jnp.zeros_like(instances.var)
        layers = pool_moments_about_mean(instances, across_features, zero)
        layers = layers.with_shift(instances.shift)
        delta = _mix(mean_share, instances.delta, layers.delta, reference.delta)
        var = _mix(var_share, instances.var, layers.var, reference.var)
        nonempty = None if call.mask is None else instances.count > 0
        return call.normalize(
            delta, var, shift=instances.shift, nonempty=nonempty
        ), batch

    y, batch = call.rematerialize(mix)
    return y, stats if batch is None else call.update(running, batch)


def _mix(shares: Array, instance: Array, layer: Array, batch: Array) -> Array:
    a, b, c = shares.astype(instance.dtype)
    return a * instance + b * layer + c * batch


def _shares(logits: Array, name: str, x: Array) -> Array:
    logits = check_inexact(logits, name)
    if logits.shape != (3,):
        raise ValueError(
            f"{name} must have the shape (3,), for instance, layer and batch, got "
            f"{logits.shape}."
        )
    dtype = accumulation_dtype(logits.dtype, real_dtype(x.dtype))
    return jax.nn.softmax(logits.astype(dtype))
