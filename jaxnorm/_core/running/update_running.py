"""Running averages: how the statistics of a batch update running statistics.

Statistics are mappings from names to arrays: the `mean`, `var` or `std` (the square
root of var + epsilon) that the normalizer keeps, and perhaps `count`, the number of
updates.
"""

import functools
from collections.abc import Mapping
from typing import TypeVar

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arrays.dtypes import accumulation_dtype, promote, real_dtype
from jaxnorm._core.arrays.known import MaybeKnown, is_known
from jaxnorm._core.arrays.sharding import shard_as, where
from jaxnorm._core.moments.moments import Moments

_State = TypeVar("_State")


def update_running(
    running: Mapping[str, Array],
    moments: Moments,
    *,
    weight: MaybeKnown,
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
      epsilon: Added to the variance inside of `std`.
      skip_nonfinite: Whether to keep all old ones if a new one is not finite.
      updates: Number of updates to count; None for 1, or for 0 if the batch is empty.

    Returns:
      The same statistics, in the same order and dtypes.
    """
    nonempty = None
    if not (is_known(moments.count) and moments.count > 0):
        nonempty = jnp.asarray(moments.count > 0)
    var = moments.var * unbiased_factor(moments.count) if unbiased else moments.var
    batch = {"mean": moments.mean, "var": var}
    if "std" in running:
        batch["std"] = jnp.sqrt(var + epsilon)
    batch = {name: value for name, value in batch.items() if name in running}
    new = dict(running) | {
        name: average(running[name], value, weight=weight, nonempty=nonempty)
        for name, value in batch.items()
    }
    if "count" in running:
        if updates is None:
            updates = jnp.ones(()) if nonempty is None else jnp.any(nonempty)
        new["count"] = running["count"] + updates.astype(running["count"].dtype)
    if skip_nonfinite:
        new = skip_if_nonfinite((moments.count, batch), new, dict(running))
    return new


def average(
    old: Array, new: Array, *, weight: MaybeKnown, nonempty: Array | None
) -> Array:
    """Returns `weight * old + (1 - weight) * new`, in the dtype of `old`.

    A complex `new` makes the result complex. No gradient flows into it.

    Args:
      old: Running statistic.
      new: Statistic of the batch.
      weight: Weight of `old`, in [0, 1]. With 0, `old` is forgotten, even if NaN.
      nonempty: True where the batch has valid elements; elsewhere `old` stays. None
        means everywhere.
    """
    # Outside of jit, as one program. Inside, without jit: known values stay known.
    traced = any(isinstance(value, jax.core.Tracer) for value in (old, new))
    compute = _average if traced else jax.jit(_average)
    return compute(old, new, weight=weight, nonempty=nonempty)


def _average(
    old: Array, new: Array, *, weight: MaybeKnown, nonempty: Array | None
) -> Array:
    """Implements `average`, which compiles it unless it is traced."""
    old, new = lax.stop_gradient((old, new))
    # The state keeps its sharding, and so its type, in a scan.
    new = shard_as(old, new)
    dtype = accumulation_dtype(old.dtype, new.dtype)
    weight = weight.astype(real_dtype(dtype))
    if isinstance(weight, Array):
        weight = shard_as(old, lax.stop_gradient(weight))
    # Selected before multiplying: a value of weight 0 may be NaN.
    if nonempty is not None:
        nonempty = shard_as(old, nonempty)
        weight = where(nonempty, weight, 1)
        new = where(nonempty, new, jnp.zeros_like(new))
    old = where(weight > 0, old, jnp.zeros_like(old))
    kept, added = weight.astype(dtype), (1 - weight).astype(dtype)
    mixed = kept * old.astype(dtype) + added * new.astype(dtype)
    result = promote(old.dtype, jnp.complex64) if jnp.iscomplexobj(mixed) else old.dtype
    return jnp.asarray(mixed, result)


def unbiased_factor(count: MaybeKnown) -> MaybeKnown:
    """Returns count / (count - 1), which makes a variance unbiased; 1 if count <= 1."""
    if is_known(count):
        return np.where(count > 1, count / np.maximum(count - 1, 1), 1)
    more_than_one = count > 1
    others = jnp.where(more_than_one, count - 1, 1)
    return jnp.where(more_than_one, count / others, 1)


def skip_if_nonfinite(batch: object, new: _State, old: _State) -> _State:
    """Returns `new`; or `old`, if the batch is not finite, or the update overflows.

    The old statistics of the layer are kept all together, or not at all.

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
