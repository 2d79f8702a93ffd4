"""The moving average that every running statistic is."""

import functools

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm.core.dtypes import accumulation_dtype, promote, real_dtype
from jaxnorm.core.momentum import Schedule, check_momentum
from jaxnorm.core.sharding import shard_as, where


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


def resolve_momentum(momentum: ArrayLike | Schedule, state: object) -> Array:
    """Returns momentum as an array; that of the next update if it is a schedule.

    Args:
      momentum: A number, a traced scalar or a function of the number of updates.
      state: Running statistics, with a field `count` if they count their updates.

    Raises:
      TypeError: If it is a function and the state does not count.
      ValueError: If it is outside [0, 1] or no scalar.
    """
    if not callable(momentum):
        return check_momentum(momentum)
    # The method of that name, which all tuples have, is no count.
    if not isinstance(count := getattr(state, "count", None), Array | np.ndarray):
        raise TypeError(
            "momentum as a function needs statistics that count their updates, got "
            f"{type(state).__name__}. Make them with "
            "init_batch_stats(feature_shape, counted=True)."
        )
    return check_momentum(momentum(jnp.asarray(count)))


def count_update(count: Array, seen: Array) -> Array:
    """Returns the number of updates after one with a batch, which may be empty."""
    return count + jnp.any(seen).astype(count.dtype)


def unbiased_factor(count: Array) -> Array:
    """Returns count / (count - 1), which makes a variance unbiased; 1 up to 1."""
    more_than_one = count > 1
    others = jnp.where(more_than_one, count - 1, 1)
    return jnp.where(more_than_one, count / others, 1)
