"""How the running statistics follow those of ghost batches."""

from typing import Literal, cast

import jax
from jax import Array
from jax import numpy as jnp

from jaxnorm.batch.call import BatchCall
from jaxnorm.core.average import average, resolve_momentum, unbiased_factor
from jaxnorm.core.axes import batch_axis
from jaxnorm.core.collectives import MappedAxis
from jaxnorm.core.measure import CenteredMoments, pool
from jaxnorm.core.reduction import Reduction
from jaxnorm.core.sharding import gather
from jaxnorm.core.stats import CountedBatchStats, Stats

StatsRule = Literal["pooled", "mean", "sequential"]


def update_from_ghosts(
    call: BatchCall, stats: Stats, ghosts: CenteredMoments, rule: StatsRule
) -> Stats:
    """Moves running statistics towards those of all ghosts.

    Args:
      call: The arguments of the call.
      stats: Running statistics, the same on all instances.
      ghosts: Moments of all ghosts, which follow each other along the batch axis, with
        the same shift.
      rule: See `jaxnorm.ghost_batch_norm`.
    """
    axis = batch_axis(call.features)
    together = Reduction((axis,), MappedAxis.nowhere())
    whole = pool(ghosts, together)
    if rule == "pooled":
        return call.update(stats, call.per_feature(whole))

    number = ghosts.var.shape[axis]
    count = jnp.broadcast_to(ghosts.count, (number, *ghosts.count.shape[1:]))
    seen = gather(count, axis) > 0
    if rule == "mean":
        share, kept, updates = _at_once(call, stats, seen)
    else:
        share, kept, updates = _in_turn(call, stats, seen)
    var = ghosts.var
    if call.unbiased:
        var = var * unbiased_factor(ghosts.count)
    delta, var = together.sums(
        *(
            jnp.where(share > 0, share.astype(v.dtype) * v, 0)
            for v in (ghosts.delta, var)
        )
    )
    batch = call.per_feature(CenteredMoments(whole.count, ghosts.shift, delta, var))
    kept = jnp.reshape(jnp.broadcast_to(kept, var.shape), call.feature_shape)
    new = stats._replace(
        mean=average(stats.mean, batch.mean, weight=kept, seen=batch.count > 0),
        var=average(stats.var, batch.var, weight=kept, seen=batch.count > 0),
    )
    if isinstance(new, CountedBatchStats):
        new = new._replace(count=new.count + updates)
    return call.keep_if_skipped(batch, cast(Stats, new), stats)


def _at_once(call: BatchCall, stats: Stats, seen: Array) -> tuple[Array, Array, Array]:
    """Returns the share of each ghost, the weight of the old statistics, the updates.

    The ghosts that hold an element count alike, and make one update.
    """
    share = seen.astype(jnp.float32)
    share = share / jnp.maximum(jnp.sum(share, 0, keepdims=True), 1)
    return (
        share,
        resolve_momentum(call.momentum, stats),
        jnp.any(seen).astype(jnp.float32),
    )


def _in_turn(call: BatchCall, stats: Stats, seen: Array) -> tuple[Array, Array, Array]:
    """Returns the same for one update after the other.

    With momentum m_l of ghost l, 1 where it is empty, the last statistics are the old
    ones times the product of all m, and each ghost's times (1 - m_l) and the product of
    those after it.
    """
    updates = jnp.any(seen, tuple(range(1, seen.ndim))).astype(jnp.float32)
    if isinstance(stats, CountedBatchStats) and callable(call.momentum):
        before = stats.count + jnp.cumsum(updates) - updates
        momentum = jnp.asarray(jax.vmap(call.momentum)(before))
    else:
        momentum = resolve_momentum(call.momentum, stats)
    momentum = jnp.broadcast_to(momentum, updates.shape)
    momentum = momentum.reshape(-1, *(1,) * (seen.ndim - 1))
    momentum = jnp.where(seen, momentum, jnp.ones_like(momentum))
    product = jnp.flip(jnp.cumprod(jnp.flip(momentum, 0), 0), 0)
    kept = product[:1]
    after = jnp.concatenate([product[1:], jnp.ones_like(kept)])
    share = (1 - momentum) * after
    total = jnp.sum(share, 0, keepdims=True)
    share = share / jnp.where(total > 0, total, 1)
    return share, kept, jnp.sum(updates)
