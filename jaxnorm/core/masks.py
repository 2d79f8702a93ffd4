"""The algebra of masks and weights: what counts, and what may be looked at."""

from jax import Array, lax
from jax import numpy as jnp

from jaxnorm.core.dtypes import accumulation_dtype
from jaxnorm.core.sharding import where


def member(mask: Array) -> Array:
    """Returns where an aligned mask is true, or its weight positive."""
    return mask > 0 if jnp.issubdtype(mask.dtype, jnp.floating) else mask


def select(mask: Array | None, value: Array) -> Array:
    """Returns `value`; 0 under the mask, whatever is there."""
    if mask is None:
        return value
    return where(member(mask), value, jnp.zeros_like(value))


def weigh(mask: Array | None, value: Array) -> Array:
    """Returns `value` times its weight; 0 under the mask, whatever is there."""
    value = select(mask, value)
    if mask is None or mask.dtype == jnp.bool_:
        return value
    return value * lax.stop_gradient(mask).astype(value.dtype)


def usable(mask: Array | None, x: Array) -> Array | None:
    """Returns where x is not masked, or at least neither NaN nor about to overflow.

    That is a mask as well, by which to select before any arithmetic: JAX's debuggers
    look for NaN and infinity in the result of each operation.
    """
    if mask is None:
        return None
    wide = jnp.finfo(accumulation_dtype(x.dtype)).max ** 0.5
    limit = min(float(jnp.finfo(x.dtype).max), float(wide))
    if jnp.iscomplexobj(x):
        return member(mask) | (_moderate(x.real, limit) & _moderate(x.imag, limit))
    return member(mask) | _moderate(x, limit)


def keep_usable(mask: Array | None, x: Array, value: Array) -> Array:
    """Returns `value`; 0 where x is masked, and NaN or so large as to overflow."""
    return select(usable(mask, x), value)


def _moderate(x: Array, limit: float) -> Array:
    return (x >= -limit) & (x <= limit)  # False for NaN
