"""Masks and weights: which elements count, and which are safe to compute with."""

from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm._core.arrays.sharding import where


def is_valid(mask: Array) -> Array:
    """Returns where an aligned mask is true, or its weight positive."""
    return mask > 0 if jnp.issubdtype(mask.dtype, jnp.floating) else mask


def zero_masked(mask: Array | None, value: Array) -> Array:
    """Returns `value`, set to 0 where it is masked out, even if it is NaN there."""
    if mask is None:
        return value
    return where(is_valid(mask), value, jnp.zeros_like(value))


def apply_weights(mask: Array | None, value: Array) -> Array:
    """Returns `value` times its weight; 0 where it is masked out, even if it is NaN."""
    value = zero_masked(mask, value)
    if mask is None or mask.dtype == jnp.bool_:
        return value
    return value * lax.stop_gradient(mask).astype(value.dtype)


def valid_or_finite(mask: Array | None, x: Array) -> Array | None:
    """Returns where x is valid, or masked but finite and small enough to be squared.

    It is the mask to apply before any arithmetic: JAX's debuggers look for NaN and
    infinity in the result of each operation.
    """
    if mask is None:
        return None
    wide = jnp.finfo(accumulation_dtype(x.dtype)).max ** 0.5
    limit = min(float(jnp.finfo(x.dtype).max), float(wide))
    if jnp.iscomplexobj(x):
        return is_valid(mask) | (_moderate(x.real, limit) & _moderate(x.imag, limit))
    return is_valid(mask) | _moderate(x, limit)


def zero_masked_nonfinite(mask: Array | None, x: Array, value: Array) -> Array:
    """Returns `value`, set to 0 where x is masked and NaN or too large to square."""
    return zero_masked(valid_or_finite(mask, x), value)


def _moderate(x: Array, limit: float) -> Array:
    """Returns where |x| is at most `limit`."""
    return (x >= -limit) & (x <= limit)  # False for NaN
