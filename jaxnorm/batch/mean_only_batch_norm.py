"""Mean-only batch normalization, the companion of weight normalization."""

import dataclasses
from typing import Unpack

from jax import Array
from jax import numpy as jnp
from jaxtyping import Inexact

from jaxnorm.batch.call import BatchCall, BatchOptions
from jaxnorm.core.average import average, resolve_momentum
from jaxnorm.core.stats import check_statistic


def mean_only_batch_norm(
    x: Inexact[Array, "..."],
    running_mean: Inexact[Array, "..."],
    bias: Inexact[Array, "..."] | None = None,
    **options: Unpack[BatchOptions],
) -> tuple[Array, Array]:
    """Subtracts the batch's mean of each feature, and divides by nothing.

    In training, with the mean over all axes but `feature_axes`::

        y = x - mean + bias
        new_running_mean = momentum * running_mean + (1 - momentum) * mean

    In inference the running mean takes the place of the batch's. Together with
    `weight_norm`, which sets the scale of the activations, it has less noise than batch
    norm has.

    Args:
      x: Input of any shape; floating or complex. The mean is computed in float32 or
        wider.
      running_mean: Feature shape; zeros at the start, in float32.
      bias: Feature shape, or the rank of x with 1 where shared; 0 where None.
      **options: As in `jaxnorm.batch_norm`: `use_running_average`, which must be given,
        and `momentum` (a number), `feature_axes`, `mask`, `axis_name`,
        `axis_index_groups`, `skip_nonfinite` and `dtype`.

    Returns:
      y of the shape of x, and the new running mean; `running_mean` itself in inference.
      One collective forward and one backward.

    Raises:
      TypeError: As in `jaxnorm.batch_norm`.
      ValueError: As in `jaxnorm.batch_norm`.

    Reference:
      Salimans and Kingma, 2016, Weight Normalization, section 4
      (https://arxiv.org/abs/1602.07868).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
      >>> y, running_mean = jaxnorm.mean_only_batch_norm(
      ...     x, jnp.zeros(2), use_running_average=False, momentum=0.5
      ... )
      >>> y, running_mean
      (Array([[ -1., -10.],
             [  1.,  10.]], dtype=float32), Array([ 1., 10.], dtype=float32))
    """
    call = BatchCall.parse(x, None, bias, **options)
    spec = dataclasses.replace(call.spec, rescale=False)
    call = dataclasses.replace(call, spec=spec)
    running_mean = jnp.asarray(running_mean)
    check_statistic(running_mean, "running_mean", call.feature_shape, call.x.dtype)
    if call.use_running_average:
        one = jnp.ones_like(running_mean, jnp.float32)
        return call.normalize(running_mean, one, epsilon=0.0), running_mean

    running = call.agree(running_mean)
    moments = call.measure(running)
    batch = call.per_feature(moments)
    weight = resolve_momentum(call.momentum, running)
    new = average(running, batch.mean, weight=weight, seen=batch.count > 0)
    return call.standardize(moments), call.keep_if_skipped(batch.mean, new, running)
