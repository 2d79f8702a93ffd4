"""Recurrent batch normalization: statistics of each time step."""

from typing import Unpack

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Inexact

from jaxnorm._core.arguments.axes import canonical_axes, sizes
from jaxnorm._core.arguments.validation import check_integer
from jaxnorm._core.arrays.dtypes import check_inexact
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.batch_options import BatchOptions, check_options
from jaxnorm._core.running.stats import (
    BatchStats,
    CountedBatchStats,
    Stats,
    init_batch_stats,
)
from jaxnorm.batch.batch_norm import batch_norm
from jaxnorm.batch.batch_norm_by_index import batch_norm_by_index, check_indices


def init_recurrent_stats(
    max_steps: int,
    feature_shape: int | tuple[int, ...],
    dtype: DTypeLike = jnp.float32,
    *,
    counted: bool = False,
) -> BatchStats | CountedBatchStats:
    """Returns running statistics for each time step: mean 0, variance 1 and count 0.

    Args:
      max_steps: Number of time steps; at least 1.
      feature_shape: Sizes of the feature axes, ascending; an integer for one axis.
      dtype: As in `jaxnorm.init_batch_stats`.
      counted: Whether to count the updates of each step, for a momentum schedule.

    Returns:
      The statistics of `init_batch_stats`, with a leading axis of size `max_steps`.

    Raises:
      ValueError: If max_steps is below 1.

    Example:
      >>> import jaxnorm
      >>> jaxnorm.init_recurrent_stats(3, 1).mean.shape
      (3, 1)
    """
    if check_integer(max_steps, "max_steps") < 1:
        raise ValueError(f"max_steps must be at least 1, got {max_steps}.")
    stats = init_batch_stats(feature_shape, dtype, counted=counted)
    return jax.tree.map(lambda leaf: jnp.stack([leaf] * max_steps), stats)


def recurrent_batch_norm(
    x: Inexact[Array, "..."],
    stats: Stats,
    step: ArrayLike,
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    **options: Unpack[BatchOptions],
) -> tuple[Array, Stats]:
    """Batch norm with separate running statistics for each time step.

    The activations of a recurrent network differ most in the first steps, so an average
    over time would not fit any of these steps. Scale and bias are shared over time; the
    paper initializes scale with 0.1, because tanh saturates for normalized input.

    Args:
      x: Input of one time step, as in `jaxnorm.batch_norm`.
      stats: Running statistics with a leading axis of time steps: from
        `init_recurrent_stats(max_steps, features)`.
      step: Index of the time step, from 0; an integer scalar, which may be traced (the
        counter of a scan). Steps beyond the last use and update the statistics of the
        last. Or an integer array of the size of the first axis of x: each example is
        normalized by, and updates, the statistics of its own step.
      scale: As in `jaxnorm.batch_norm`.
      bias: As in `jaxnorm.batch_norm`.
      **options: As in `jaxnorm.batch_norm`. For sequences of unequal length, `mask`
        selects those that have not ended; if all have ended, the statistics do not
        change.

    Returns:
      y of the shape of x, and the new statistics, which differ from `stats` only
      at this step; `stats` itself in inference.

    Raises:
      TypeError: If step is not an integer, or as in `jaxnorm.batch_norm`.
      ValueError: If step has another shape, or is known to be negative; the statistics
        have no axis of steps, or axes of different sizes; or as in
        `jaxnorm.batch_norm`.

    Reference:
      Cooijmans et al., 2017, Recurrent Batch Normalization, section 3
      (https://arxiv.org/abs/1603.09025).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x, stats = jnp.array([[1.0], [3.0]]), jaxnorm.init_recurrent_stats(3, 1)
      >>> y, stats = jaxnorm.recurrent_batch_norm(
      ...     x, stats, 1, use_running_average=False, momentum=0.5
      ... )
      >>> stats.mean[:, 0]
      Array([0., 1., 0.], dtype=float32)
    """
    check_options(options)
    x = check_inexact(x, "x")
    step = check_indices(step, "step", x)
    axes = canonical_axes(options.get("feature_axes", -1), x.ndim)
    features = sizes(jnp.shape(x), axes)
    shapes = {jnp.shape(leaf) for leaf in jax.tree.leaves(stats)}
    number = next(iter(shapes), ())[:1]
    counts = {number} if isinstance(stats, CountedBatchStats) else set()
    if shapes != {(*number, *features)} | counts or number in ((), (0,)):
        raise ValueError(
            "stats must have a leading axis of time steps, of the same number in each "
            f"array, before the feature shape {features}, got the shapes "
            f"{jax.tree.map(jnp.shape, stats)}. Make them with "
            f"init_recurrent_stats(max_steps, {features})."
        )
    step = jnp.clip(step, 0, number[0] - 1)
    if step.ndim:
        call = BatchCall.from_options(x, scale, bias, options)
        return batch_norm_by_index(call, stats, step)
    own = jax.tree.map(
        lambda leaf: lax.dynamic_index_in_dim(leaf, step, keepdims=False), stats
    )
    y, new = batch_norm(x, own, scale, bias, **options)
    if new is own:
        return y, stats
    moved = jax.tree.map(
        lambda leaf, value: lax.dynamic_update_index_in_dim(
            leaf.astype(value.dtype), value, step, 0
        ),
        stats,
        new,
    )
    return y, moved
