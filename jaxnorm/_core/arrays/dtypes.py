"""Which dtype an argument may have, a result has, and a computation runs in."""

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import ArrayLike, DTypeLike


def promote(*dtypes: DTypeLike) -> jnp.dtype:
    """Returns the common dtype under standard promotion, whatever mode is configured.

    The package casts to it explicitly, so it works under strict dtype promotion. JAX
    does not promote 8-bit floats; here every other dtype takes precedence over them.
    """
    distinct = list(dict.fromkeys(jnp.dtype(dtype) for dtype in dtypes))
    if len(distinct) > 1:
        distinct = [dtype for dtype in distinct if not _is_float8(dtype)]
    result, *others = distinct or [jnp.dtype(jnp.float32)]
    with jax.numpy_dtype_promotion("standard"):
        for dtype in others:
            result = jnp.promote_types(result, dtype)
    return result


def accumulation_dtype(*dtypes: DTypeLike) -> jnp.dtype:
    """Returns the dtype that statistics are computed in: float32 or wider."""
    return promote(jnp.float32, *dtypes)


def real_dtype(dtype: DTypeLike) -> jnp.dtype:
    """Returns the dtype of the real part."""
    return jnp.finfo(dtype).dtype


def output_dtype(dtype: DTypeLike | None, **inputs: ArrayLike | None) -> jnp.dtype:
    """Returns `dtype`, or what the given inputs promote to where it is None.

    Args:
      dtype: Dtype that the user asks for, or None.
      **inputs: Arrays by their argument's name; None where not given.

    Raises:
      TypeError: If an input or `dtype` is neither floating nor complex, or `dtype` is
        real for complex inputs.
    """
    given = {name: value for name, value in inputs.items() if value is not None}
    inferred = promote(*(check_inexact(given[name], name).dtype for name in given))
    if dtype is None:
        return inferred
    dtype = check_dtype(dtype)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"dtype must be floating or complex, got {dtype}. Pass None for the dtype "
            "of the inputs, or a dtype such as jnp.float32."
        )
    if _is_complex(inferred) and not _is_complex(dtype):
        raise TypeError(
            f"dtype must be complex for complex inputs ({inferred}), got {dtype}, "
            "which would drop the imaginary part. Pass dtype=None, or the real part "
            "of the inputs."
        )
    return dtype


def check_dtype(dtype: DTypeLike, name: str = "dtype") -> jnp.dtype:
    """Returns the dtype that JAX uses for a dtype: 32 bits for 64 unless x64 is on.

    Raises:
      TypeError: If it is not a dtype.
    """
    try:
        return jax.dtypes.canonicalize_dtype(dtype)
    except TypeError as error:
        raise TypeError(
            f"{name} must be a dtype, such as jnp.bfloat16, got {dtype!r}."
        ) from error


def round_to(value: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Returns a value rounded to the precision of a narrower dtype, in its own dtype.

    Not by casting there and back: XLA may remove both casts.
    """
    if jnp.iscomplexobj(value):
        return lax.complex(round_to(value.real, dtype), round_to(value.imag, dtype))
    kind = jnp.finfo(dtype)
    return lax.reduce_precision(value, kind.nexp, kind.nmant)


def _is_float8(dtype: jnp.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating)) and dtype.itemsize == 1


def _is_complex(dtype: DTypeLike) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.complexfloating))


def as_array(value: ArrayLike, name: str = "the value") -> jax.Array:
    """Returns value as an array; a JAX array is returned unchanged.

    Under `jax.grad`, `jnp.asarray` would copy it. JAX's debuggers inspect the result of
    each operation, so they would report a NaN in the copy that a mask would hide.

    Args:
      value: An array or numbers.
      name: The argument's name, for the error message.

    Raises:
      TypeError: If it cannot be made an array.
    """
    if isinstance(value, jax.Array):
        return value
    try:
        return jnp.asarray(value)
    except (TypeError, ValueError) as error:
        kind = type(value).__name__
        raise TypeError(f"{name} must be an array, got {kind}: {error}") from error


def floating_input(x: ArrayLike) -> jax.Array:
    """Returns x as an array; integers and booleans as float32, as Flax takes them."""
    x = as_array(x, "x")
    return x if jnp.issubdtype(x.dtype, jnp.inexact) else x.astype(jnp.float32)


def check_inexact(value: ArrayLike, name: str) -> Array:
    """Returns `value` as an array of floating or complex dtype.

    Raises:
      TypeError: If it is not an array, or its dtype is neither.
    """
    array = as_array(value, name)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        raise TypeError(
            f"{name} must be floating or complex, got {array.dtype}. Convert it first: "
            f"{name}.astype(jnp.float32)."
        )
    return array


def check_real(reason: str, **values: Array | None) -> None:
    """Checks that arrays are not complex.

    Args:
      reason: Why they must be real, for the error message.
      **values: Arrays by their argument's name; None where not given.

    Raises:
      TypeError: If one is complex.
    """
    for name, value in values.items():
        if value is not None and jnp.iscomplexobj(value):
            raise TypeError(
                f"{name} must be real, since {reason}, got {value.dtype}. Normalize "
                "the real and the imaginary part as separate features."
            )
