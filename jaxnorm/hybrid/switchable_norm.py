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

    With a = softmax(mean_logits) and b = softmax(var_logits), the mixture combines the
    means and biased variances of each feature of each example (in), of each example
    (ln), and of each feature over the batch (bn; in inference the running statistics)::

        mean = a[0] mean_in + a[1] mean_ln + a[2] mean_bn
        var  = b[0] var_in  + b[1] var_ln  + b[2] var_bn
        y    = (x - mean) / sqrt(var + epsilon) * scale + bias

    x is read once for all three: the layer and batch moments are merged from the
    instance moments.

    Args:
      x: Input of shape (batch, ..., features); floating or complex. Without spatial
        axes, an instance is one number with variance 0.
      stats: Running statistics of the batch part, as in `jaxnorm.batch_norm`.
      mean_logits: (3,), in the order instance, layer, batch; initially equal.
      var_logits: (3,), in the same order.
      scale: Feature shape, or the rank of x with size 1 on shared axes; None means 1.
      bias: Same shapes as scale; None means 0.
      **options: As in `jaxnorm.batch_norm`. If all elements of a feature of an example
        are masked, its y is the bias.

    Returns:
      y of the shape of x, and the new statistics, computed as in batch norm; `stats`
      itself in inference. Takes one collective forward and one backward.

    Raises:
      TypeError: As in `jaxnorm.batch_norm`.
      ValueError: If the logits are not of shape (3,), or as in `jaxnorm.batch_norm`.

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
    mean_weights = _mixture_weights(mean_logits, "mean_logits", call.x)
    var_weights = _mixture_weights(var_logits, "var_logits", call.x)
    running = stats if call.use_running_average else call.average_replicas(stats)

    def mix(call: BatchCall) -> tuple[Array, Moments | None]:
        instances, reference, batch = compute_moments_to_mix(call, running)
        # Centered on the mean of the layer, because the means of its features may lie
        # far apart, and some features may be masked.
        across_features = Reduction(call.features, MappedAxes.none())
        zero = jnp.zeros_like(instances.var)
        layers = pool_moments_about_mean(instances, across_features, zero)
        layers = layers.with_shift(instances.shift)
        delta = _weighted_sum(
            mean_weights, instances.delta, layers.delta, reference.delta
        )
        var = _weighted_sum(var_weights, instances.var, layers.var, reference.var)
        nonempty = None if call.mask is None else instances.count > 0
        return call.normalize(
            delta, var, shift=instances.shift, nonempty=nonempty
        ), batch

    y, batch = call.rematerialize(mix)
    return y, stats if batch is None else call.update(running, batch)


def _weighted_sum(weights: Array, instance: Array, layer: Array, batch: Array) -> Array:
    """Returns the sum of the three statistics with the given weights."""
    a, b, c = weights.astype(instance.dtype)
    return a * instance + b * layer + c * batch


def _mixture_weights(logits: Array, name: str, x: Array) -> Array:
    """Returns the softmax of the three logits, in a dtype wide enough for x."""
    logits = check_inexact(logits, name)
    if logits.shape != (3,):
        raise ValueError(
            f"{name} must have the shape (3,), for instance, layer and batch, got "
            f"{logits.shape}."
        )
    dtype = accumulation_dtype(logits.dtype, real_dtype(x.dtype))
    return jax.nn.softmax(logits.astype(dtype))
