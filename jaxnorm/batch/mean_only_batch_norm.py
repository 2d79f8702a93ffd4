"""Mean-only batch normalization, the companion of weight normalization."""

import dataclasses
from typing import Unpack

from jax import Array
from jax import numpy as jnp
from jaxtyping import Inexact

from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.running.single_stats import OfMean, check_mean_stats


def mean_only_batch_norm(
    x: Inexact[Array, "..."],
    stats: OfMean,
    bias: Inexact[Array, "..."] | None = None,
    **options: Unpack[BatchOptions],
) -> tuple[Array, OfMean]:
    """Subtracts the batch mean of each feature, without dividing.

    In training, with the mean over all axes but `feature_axes`::

        y = x - mean + bias
        new_stats = momentum * stats + (1 - momentum) * mean

    In inference, the running mean replaces the batch mean. Together with `weight_norm`,
    which sets the scale of the activations, it has less noise than batch norm.

    Args:
      x: Input of any shape; floating or complex. The mean is computed in float32 or
        wider.
      stats: The running mean, of the feature shape, from `init_mean_stats`.
      bias: Feature shape, or the rank of x with 1 where shared; 0 where None.
      **options: As in `jaxnorm.batch_norm`: `use_running_average`, which must be given,
        and `momentum`, `feature_axes`, `mask`, `axis_name`, `axis_index_groups`,
        `skip_nonfinite` and `dtype`.

    Returns:
      y of the shape of x, and the new statistics; `stats` itself in inference. One
      collective forward and one backward.

    Raises:
      TypeError: As in `jaxnorm.batch_norm`.
      ValueError: As in `jaxnorm.batch_norm`.

    Reference:
      Salimans and Kingma, 2016, Weight Normalization, section 4
      (https://arxiv.org/abs/1602.07868).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
      >>> y, stats = jaxnorm.mean_only_batch_norm(
      ...     x, jaxnorm.init_mean_stats(2), use_running_average=False, momentum=0.5
      ... )
      >>> y, stats.mean
      (Array([[ -1., -10.],
             [  1.,  10.]], dtype=float32), Array([ 1., 10.], dtype=float32))
    """
    call = BatchCall.from_options(x, None, bias, options)
    spec = dataclasses.replace(call.spec, rescale=False)
    call = dataclasses.replace(call, spec=spec)
    check_mean_stats(stats, call.feature_shape, call.x.dtype)
    if call.use_running_average:
        one = jnp.ones_like(stats.mean, jnp.float32)
        return call.normalize(stats.mean, one, epsilon=0.0), stats

    running = call.average_replicas(stats)
    moments = call.compute_moments(running.mean)
    y = call.standardize(moments)
    return y, call.update(running, call.per_feature(moments))
