"""Batch-instance normalization."""

import dataclasses
from typing import Unpack

from jax import Array
from jax import numpy as jnp
from jaxtyping import Float, Inexact

from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_inexact
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.moments.moments import Moments
from jaxnorm._core.running.stats import Stats, check_stats
from jaxnorm.batch.instances import (
    compute_instance_and_batch_moments,
    compute_instance_moments,
    instance_reduction,
)


def batch_instance_norm(
    x: Inexact[Array, "batch ..."],
    stats: Stats,
    gate: Float[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    **options: Unpack[BatchOptions],
) -> tuple[Array, Stats]:
    """Mixes batch norm and instance norm with a learned gate for each feature.

    x is normalized twice: by the batch statistics (in inference, the running
    statistics), and by the statistics of each example over space::

        y = (gate * batch_normalized + (1 - gate) * instance_normalized) * scale + bias

    So a network keeps the style of an image where it helps, and removes it elsewhere.
    The function does not clip the gate: keep it in [0, 1] with `project_gates` after
    each optimizer step, as the paper does.

    Args:
      x: Input of shape (batch, ..., features); floating or complex.
      stats: Running statistics of the batch part, as in `jaxnorm.batch_norm`.
      gate: Feature shape, or the rank of x with size 1 on shared axes; real, in [0, 1];
        initially ones.
      scale: Feature shape, or the rank of x with size 1 on shared axes; None means 1.
      bias: Same shapes as scale; None means 0.
      **options: As in `jaxnorm.batch_norm`.

    Returns:
      y of the shape of x, and the new statistics, computed as in batch norm; `stats`
      itself in inference. Takes one collective forward and one backward.

    Raises:
      TypeError: As in `jaxnorm.batch_norm`.
      ValueError: As in `jaxnorm.batch_norm`.

    Reference:
      Nam and Kim, 2018, Batch-Instance Normalization for Adaptively Style-Invariant
      Neural Networks, equation 3 (https://arxiv.org/abs/1805.07925).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm
      >>> @jax.jit
      ... def train(x, stats, gate):
      ...     return jaxnorm.batch_instance_norm(
      ...         x, stats, gate, use_running_average=False
      ...     )
      >>> x = jnp.array([[[1.0], [3.0]], [[10.0], [30.0]]])
      >>> y, _ = train(x, jaxnorm.init_batch_stats(1), jnp.zeros(1))
      >>> y[..., 0].round(3)
      Array([[-1.,  1.],
             [-1.,  1.]], dtype=float32)
    """
    call = BatchCall.from_options(x, scale, bias, options)
    check_stats(stats, call.feature_shape, call.x.dtype)
    gate = call.align(check_inexact(gate, "gate"), "gate")
    dtype = accumulation_dtype(call.spec.dtype, call.x.dtype)
    gate, scale, bias = (a.astype(dtype) for a in (gate, call.scale, call.bias))
    running = stats if call.use_running_average else call.average_replicas(stats)
    # The sum of the two parts is rounded to a narrower dtype, not the parts.
    wide = dataclasses.replace(call.spec, dtype=dtype)
    per_instance = dataclasses.replace(wide, reduction=instance_reduction(call))

    def mix(call: BatchCall) -> tuple[Array, Moments | None]:
        by_batch = dataclasses.replace(call, scale=scale * gate, bias=bias, spec=wide)
        by_instance = dataclasses.replace(
            call,
            scale=scale * (1 - gate),
            bias=jnp.zeros_like(bias),
            spec=per_instance,
        )
        if call.use_running_average:
            instances = compute_instance_moments(call, call.align(running.mean))
            y, moments = by_batch.normalize(running.mean, running.var), None
        else:
            instances, batch = compute_instance_and_batch_moments(call, running.mean)
            moments = call.per_feature(batch)
            batch = batch.with_var_where_empty(call.align(running.var))
            y = by_batch.standardize(batch)
        y = y + by_instance.standardize(instances)
        return y.astype(call.spec.dtype), moments

    y, moments = call.rematerialize(mix)
    return y, stats if moments is None else call.update(running, moments)
