"""Ghost batch normalization: statistics of parts of the batch."""

import dataclasses
from typing import Unpack, get_args

from jax import Array
from jaxtyping import Inexact

from jaxnorm._core.arguments.axes import batch_axis, other_axes
from jaxnorm._core.arguments.validation import check_integer
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.moments.shifted_moments import ShiftedMoments
from jaxnorm._core.reductions.collectives import MappedAxes
from jaxnorm._core.reductions.reduction import Blocks, Reduction, Runs
from jaxnorm._core.running.stats import Stats, check_stats
from jaxnorm.batch.ghost_stats import StatsRule, update_from_ghosts


def ghost_batch_norm(
    x: Inexact[Array, "batch ..."],
    stats: Stats,
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    virtual_batch_size: int,
    stats_rule: StatsRule = "pooled",
    **options: Unpack[BatchOptions],
) -> tuple[Array, Stats]:
    """Normalizes each group of `virtual_batch_size` adjacent examples separately.

    In training, the batch is split into ghosts of adjacent examples. Each example is
    normalized with the mean and the biased variance of its ghost::

        y = (x - mean) / sqrt(var + epsilon) * scale + bias

    The running statistics have the same shape as in batch norm, and inference is the
    same. `stats_rule` selects how the running statistics are updated:

    * "pooled": with the moments of the whole batch, as in batch norm;
    * "mean": with the average of the means and the average of the variances of the
      ghosts, without the variance between ghosts, which the outputs of training lack
      too;
    * "sequential": with one ghost after another, each with `momentum`, as if they were
      successive batches. (The weights in the formula of the paper do not add up to 1;
      the code of the paper does this.)

    Args:
      x: Input of shape (batch, ...); floating or complex. The first axis is split.
      stats: Running statistics, as in `jaxnorm.batch_norm`.
      scale: Feature shape, or the rank of x with 1 where shared; 1 where None.
      bias: Same shapes as scale; 0 where None.
      virtual_batch_size: Number of examples in a ghost, over all devices of
        `axis_name`. It divides the batch of a device; or it is a multiple of that
        batch, and ghosts span adjacent devices. Without effect in inference.
      stats_rule: "pooled", "mean" or "sequential".
      **options: As in `jaxnorm.batch_norm`. With counted statistics, each ghost
        counts as an update under "sequential". A ghost without valid elements is
        normalized by the running statistics, and does not change them.
        `axis_index_groups` must be None.

    Returns:
      y of the shape of x, and the new statistics; `stats` itself in inference.
      With an `axis_name`, there is one collective forward, for the new statistics (and
      for y, if ghosts span devices), and one backward only if ghosts span devices.
      Under `jax.jit` with a sharded batch, XLA inserts the same collectives, if the
      number of ghosts is a multiple of the number of shards; for "sequential" it also
      gathers a few numbers of each ghost.

    Raises:
      TypeError: As in `jaxnorm.batch_norm`.
      ValueError: If ghosts do not divide the batch, or `stats_rule` is unknown, or as
        in `jaxnorm.batch_norm`.

    Reference:
      Hoffer, Hubara and Soudry, 2017, Train longer, generalize better, algorithm 1
      (https://arxiv.org/abs/1705.08741).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm
      >>> @jax.jit
      ... def train(x, stats):
      ...     return jaxnorm.ghost_batch_norm(
      ...         x, stats, virtual_batch_size=2, momentum=0.0,
      ...         use_running_average=False,
      ...     )
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> y, stats = train(x, jaxnorm.init_batch_stats(1))
      >>> y[:, 0].round(3)
      Array([-1.,  1., -1.,  1.], dtype=float32)
      >>> stats.mean
      Array([11.], dtype=float32)
    """
    call = BatchCall.from_options(x, scale, bias, options)
    check_stats(stats, call.feature_shape, call.x.dtype)
    if stats_rule not in get_args(StatsRule):
        raise ValueError(
            f"stats_rule must be one of {', '.join(get_args(StatsRule))}, got "
            f"{stats_rule!r}."
        )
    size = check_integer(virtual_batch_size, "virtual_batch_size")
    if size < 1:
        raise ValueError(f"virtual_batch_size must be at least 1, got {size}.")
    if call.use_running_average:
        return call.normalize(stats.mean, stats.var), stats

    whole = call.reduction.mapped_axes.where_varying(call.x)
    ghosts = _ghost_reduction(call, size)
    spec = dataclasses.replace(call.spec, reduction=ghosts)
    running = call.average_replicas(stats)
    call = dataclasses.replace(call, spec=spec)
    moments = call.compute_moments(running.mean)
    y = call.standardize(moments.with_var_where_empty(call.align(running.var)))
    parts = moments if ghosts.runs is not None else _gather(call, moments, whole)
    return y, update_from_ghosts(call, running, parts, stats_rule)


def _ghost_reduction(call: BatchCall, virtual_batch_size: int) -> Reduction:
    """Returns the reduction that has one result for each ghost."""
    axis = batch_axis(call.features)
    mapped_axes = call.reduction.mapped_axes.where_varying(call.x)
    local = call.x.shape[axis]
    if mapped_axes.groups is not None:
        raise ValueError(
            "axis_index_groups must be None, since virtual_batch_size says which "
            f"devices share statistics, got {mapped_axes.groups}."
        )
    devices = mapped_axes.size(call.x)
    # An empty batch has no ghosts, of whatever size.
    spanned = virtual_batch_size // local if virtual_batch_size > local > 0 else 1
    whole = virtual_batch_size if spanned == 1 else local
    if local % whole or virtual_batch_size != whole * spanned or devices % spanned:
        raise ValueError(
            f"virtual_batch_size must divide the batch of {local} examples"
            + (f" of each of the {devices} devices" if devices > 1 else "")
            + (", or be a multiple of it that divides the whole" * (devices > 1))
            + f", got {virtual_batch_size}."
        )
    if spanned > 1:
        return Reduction(
            call.reduction.axes, mapped_axes, runs=Runs(axis=axis, length=spanned)
        )
    return Reduction(
        other_axes((axis, *call.features), call.x.ndim),
        MappedAxes.none(),
        blocks=Blocks(axis, virtual_batch_size),
    )


def _gather(
    call: BatchCall, parts: ShiftedMoments, mapped_axes: MappedAxes
) -> ShiftedMoments:
    """Returns the moments of the ghosts of all instances, in one collective."""
    axis, own = batch_axis(call.features), parts._asdict()
    if call.mask is None:
        del own["count"]  # which all have in common
    if call.use_fast_variance:
        del own["shift"]  # likewise
    every = mapped_axes.sum_by_run(tuple(own.values()), axis, length=1)
    return parts._replace(**dict(zip(own, every, strict=True)))
