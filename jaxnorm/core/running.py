"""The update of running statistics, of whatever normalizer.

Here they are mappings from names to arrays: `mean`, `var` and `std` (the square root of
var + epsilon), those of them that the normalizer keeps, and perhaps `count`, the number
of updates.
"""

import functools
from collections.abc import Mapping
from typing import TypeVar

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm.core.dtypes import accumulation_dtype, promote, real_dtype
from jaxnorm.core.moments import Moments
from jaxnorm.core.momentum import Schedule, check_momentum
from jaxnorm.core.sharding import shard_as, where

_State = TypeVar("_State")


def update_running(
    running: Mapping[str, Array],
    moments: Moments,
    *,
    weight: Array,
    unbiased: bool = False,
    epsilon: float = 0.0,
    skip_nonfinite: bool = False,
    updates: Array | None = None,
) -> dict[str, Array]:
    """Moves running statistics towards the moments of a batch, and counts the update.

    Args:
      running: Running statistics of the feature shape; a count is a scalar.
      moments: Moments of the batch, of the feature shape.
      weight: Weight of the old statistics, in [0, 1]; a scalar, or of that shape.
      unbiased: Whether `moments.var` is multiplied by count / (count - 1).
      epsilon: What `std` includes.
      skip_nonfinite: Whether all stay as they were where one would not be finite.
      updates: How many updates this one stands for; 1 where None, and 0 for an empty
        batch.

    Returns:
      The same statistics, in the same order and dtypes.
    """
    seen = moments.count > 0
    var = moments.var * unbiased_factor(moments.count) if unbiased else moments.var
    batch = {"mean": moments.mean, "var": var}
    if "std" in running:
        batch["std"] = jnp.sqrt(var + epsilon)
    batch = {name: value for name, value in batch.items() if name in running}
    new = dict(running) | {
        name: average(running[name], value, weight=weight, seen=seen)
        for name, value in batch.items()
    }
    if "count" in running:
        updates = jnp.any(seen) if updates is None else updates
        new["count"] = running["count"] + updates.astype(running["count"].dtype)
    if skip_nonfinite:
        new = keep_unless_finite((moments.count, batch), new, dict(running))
    return new


@functools.partial(jax.jit, inline=True)
def average(old: Array, new: Array, *, weight: Array, seen: Array) -> Array:
    """Returns `weight * old + (1 - weight) * new`, in the dtype of `old`.

    A complex `new` makes the result complex. No gradient flows into it.

    Args:
      old: Running statistic.
      new: That of the batch.
      weight: Weight of the old one, in [0, 1]. With 0 it is forgotten, even if NaN.
      seen: Where the batch has an element at all; elsewhere `old` stays.
    """
    old, new, weight = lax.stop_gradient((old, new, weight))
    # The state keeps its sharding, and so its type, in a scan.
    new, weight, seen = (shard_as(old, value) for value in (new, weight, seen))
    dtype = accumulation_dtype(old.dtype, new.dtype)
    weight = where(seen, weight.astype(real_dtype(dtype)), 1)
    # Selected before multiplied: what has no weight may be NaN.
    kept = where(weight > 0, old, jnp.zeros_like(old)).astype(dtype)
    added = where(seen, new, jnp.zeros_like(new)).astype(dtype)
    mixed = weight.astype(dtype) * kept + (1 - weight).astype(dtype) * added
    if jnp.iscomplexobj(mixed):
        return mixed.astype(promote(old.dtype, jnp.complex64))
    return mixed.astype(old.dtype)


def resolve_momentum(
    momentum: ArrayLike | Schedule, running: Mapping[str, Array]
) -> Array:
    """Returns momentum as an array; that of the next update if it is a schedule.

    Args:
      momentum: A number, a traced scalar or a function of the number of updates.
      running: Running statistics, with `count` if they count their updates.

    Raises:
      TypeError: If it is a function and the statistics do not count.
      ValueError: If it is outside [0, 1] or no scalar.
    """
    if not callable(momentum):
        return check_momentum(momentum)
    if "count" not in running:
        names = [name for name in ("mean", "var") if name in running]
        kind = names[0] if len(names) == 1 else "batch"
        raise TypeError(
            "momentum as a function needs statistics that count their updates, got "
            f"{' and '.join(names)} without a count. Make them with "
            f"init_{kind}_stats(feature_shape, counted=True)."
        )
    return check_momentum(momentum(jnp.asarray(running["count"])))


def unbiased_factor(count: Array) -> Array:
    """Returns count / (count - 1), which makes a variance unbiased; 1 up to 1."""
    more_than_one = count > 1
    others = jnp.where(more_than_one, count - 1, 1)
    return jnp.where(more_than_one, count / others, 1)


def keep_unless_finite(batch: object, new: _State, old: _State) -> _State:
    """Returns `new` if the batch is finite and no statistic ceases to be, else `old`.

    All statistics of the layer are kept, or none.

    Args:
      batch: The statistics of the batch; arrays in any structure.
      new: The state after the update.
      old: The state before it, of the same structure.
    """
    finite = [jnp.isfinite(leaf) for leaf in jax.tree.leaves(batch)]
    for after, before in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        finite.append(jnp.isfinite(after) | ~jnp.isfinite(before))
    intact = functools.reduce(jnp.logical_and, [jnp.all(leaf) for leaf in finite])
    return jax.tree.map(
        lambda new, old: jnp.where(intact, new, old.astype(new.dtype)), new, old
    )
