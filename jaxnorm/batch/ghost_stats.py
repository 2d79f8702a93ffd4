"""Updates of the running statistics by the statistics of ghosts."""

import dataclasses
from typing import Literal

import jax
from jax import Array
from jax import numpy as jnp

from jaxnorm._core.arguments.axes import batch_axis
from jaxnorm._core.arrays.safe_math import safe_count
from jaxnorm._core.arrays.sharding import gather, shard_as, where
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.moments.shifted_moments import ShiftedMoments
from jaxnorm._core.reductions.collectives import MappedAxes
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.running.momentum import resolve_momentum
from jaxnorm._core.running.stats import CountedBatchStats, Stats
from jaxnorm._core.running.update_running import unbiased_factor

StatsRule = Literal["pooled", "mean", "sequential"]


def update_from_ghosts(
    call: BatchCall, stats: Stats, ghosts: ShiftedMoments, rule: StatsRule
) -> Stats:
    """Moves running statistics towards the statistics of all ghosts.

    Args:
      call: The arguments of the call.
      stats: Running statistics, the same on all instances.
      ghosts: Moments of all ghosts, which follow each other along the batch axis.
      rule: See `jaxnorm.ghost_batch_norm`.
    """
    axis = batch_axis(call.features)
    together = Reduction((axis,), MappedAxes.none())
    if rule == "pooled":
        shift = call.align(stats.mean).astype(ghosts.shift.dtype)
        whole = call.pool_moments(ghosts, together, shift)
        return call.update(stats, call.per_feature(whole))

    shape = (ghosts.var.shape[axis], *ghosts.count.shape[1:])
    count = jnp.broadcast_to(ghosts.count, shape)
    if rule == "mean":
        share = (count > 0).astype(count.dtype)
        kept, updates = resolve_momentum(call.momentum, stats._asdict()), None
    else:
        share, kept, updates = _sequential_weights(call, stats, gather(count, axis) > 0)
        share = shard_as(ghosts.var, share)
    var = ghosts.var
    if call.unbiased:
        var = var * unbiased_factor(ghosts.count)
        call = dataclasses.replace(call, unbiased=False)  # once is enough

    def weigh(value: Array) -> Array:
        weighted = share.astype(value.dtype) * value
        return where(share > 0, weighted, jnp.zeros_like(weighted))

    # Means, and not their distances from the running mean: those are rounded where it
    # is far off.
    count, number, mean, var = together.sums(
        count, share, weigh(ghosts.mean), weigh(var)
    )
    divisor = safe_count(number)
    mean, var = mean / divisor.astype(mean.dtype), var / divisor
    batch = call.per_feature(ShiftedMoments(count, jnp.zeros_like(mean), mean, var))
    kept = jnp.reshape(jnp.broadcast_to(kept, var.shape), call.feature_shape)
    return call.update(stats, batch, weight=kept, updates=updates)


def _sequential_weights(
    call: BatchCall, stats: Stats, nonempty: Array
) -> tuple[Array, Array, Array]:
    """Returns the weights of one update that equals an update by each ghost in turn.

    With momentum m of each ghost, 1 where it is empty, the last statistics are the old
    ones times the product of all m, plus the statistics of each ghost times 1 - m and
    times the product of the m of all later ghosts.

    Args:
      call: The arguments of the call.
      stats: Running statistics.
      nonempty: True for ghosts with valid elements.

    Returns:
      The weight of each ghost, the weight of the old statistics, and the number of
      updates.
    """
    updates = jnp.any(nonempty, tuple(range(1, nonempty.ndim))).astype(jnp.float32)
    index = jnp.arange(len(nonempty))
    # Products over all pairs: a running product would go from shard to shard.
    later = index.reshape(1, -1) > index.reshape(-1, 1)
    if isinstance(stats, CountedBatchStats) and callable(call.momentum):
        earlier = jnp.where(later.T, updates.reshape(1, -1), 0)
        counts = stats.count + jnp.sum(earlier, 1)
        momentum = jax.vmap(
            lambda count: resolve_momentum(call.momentum, {"count": count})
        )(counts)
    else:
        momentum = resolve_momentum(call.momentum, stats._asdict())
    one = (1,) * (nonempty.ndim - 1)
    momentum = jnp.reshape(momentum, (-1, *one))
    if call.mask is not None:
        momentum = jnp.where(nonempty, momentum, jnp.ones_like(momentum))
    others = jnp.expand_dims(momentum, 0)
    after = jnp.where(later.reshape(*later.shape, *one), others, jnp.ones_like(others))
    kept = jnp.broadcast_to(momentum, (len(nonempty), *momentum.shape[1:]))
    kept = jnp.prod(kept, 0, keepdims=True)
    return (1 - momentum) * jnp.prod(after, 1), kept, jnp.sum(updates)
