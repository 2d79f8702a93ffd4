"""Checks of arguments at trace time, with errors that say what must hold."""

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arrays.dtypes import as_array


def shown(value: object) -> str:
    """Describes a value for an error message: an array by its shape and dtype."""
    traced = isinstance(value, jax.core.Tracer)
    if isinstance(value, Array | np.ndarray) and value.ndim and not traced:
        return f"an array of shape {value.shape} and dtype {value.dtype}"
    return repr(value)


def check_flags(**flags: object) -> None:
    """Checks that each flag is a Python bool, not a traced value.

    Raises:
      TypeError: If one is anything else.
    """
    for name, value in flags.items():
        if not isinstance(value, bool | np.bool_):
            fix = "Under jax.jit pass it through static_argnames."
            if getattr(value, "ndim", 0):
                fix = "Is it a mask? Pass it by keyword: mask=..."
            raise TypeError(
                f"{name} must be a Python bool, since it selects the program, got "
                f"{shown(value)}. {fix}"
            )


def check_index(index: ArrayLike, name: str, size: int | None = None) -> Array:
    """Returns an index as an integer scalar array, in [0, size).

    A traced index that is out of range becomes the last one; only
    `jax.experimental.checkify` with its `index_checks` reports it.

    Args:
      index: An integer scalar, traced or not.
      name: Its name.
      size: The index must be below it. None: no bound; a traced index is not changed.

    Raises:
      TypeError: If it is not an integer.
      ValueError: If it is not a scalar, or known while tracing and out of range.
    """
    array = as_array(index, name)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be an integer, got {array.dtype}.")
    if array.ndim:
        raise ValueError(f"{name} must be a scalar, got the shape {array.shape}.")
    least = "be at least 0" if size is None else f"lie in [0, {size})"
    if not isinstance(index, jax.core.Tracer):  # jnp.asarray may have made it one
        known = int(np.asarray(index))
        if known < 0 or (size is not None and known >= size):
            raise ValueError(f"{name} must {least}, got {known}.")
        return array
    if size is None:
        return array
    # checkify checks this lookup. A check of our own would be an effect, which costs
    # each call of a compiled function 0.3 ms.
    array = array.astype(jnp.int32)
    start = jnp.where(array < 0, size, array)  # a negative one would count from the end
    return lax.squeeze(lax.dynamic_slice(jnp.arange(size), (start,), (1,)), (0,))


def check_epsilon(epsilon: float) -> float:
    """Returns `epsilon` as a Python number.

    Raises:
      TypeError: If it is not a number that is known while tracing.
      ValueError: If it is negative or not finite.
    """
    if not isinstance(epsilon, int | float | np.number):
        raise TypeError(
            f"epsilon must be a Python number, got {shown(epsilon)}. If it is traced, "
            "close over it, or pass it through static_argnames."
        )
    if not 0 <= epsilon < float("inf"):
        raise ValueError(
            "epsilon must be finite and at least 0, since it is added under a root, "
            f"got {epsilon}. Pass a small positive number: epsilon=1e-5."
        )
    return float(epsilon)


def check_integer(value: object, name: str) -> int:
    """Returns `value` as a Python integer.

    Raises:
      TypeError: If it is not one, or not known while tracing.
    """
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        traced = isinstance(value, jax.core.Tracer)
        fix = " Under jax.jit pass it through static_argnames." * traced
        raise TypeError(f"{name} must be a Python integer, got {shown(value)}.{fix}")
    return int(value)


def check_shape(shape: object, name: str) -> tuple[int, ...]:
    """Returns a shape as a tuple; an integer n means (n,).

    Raises:
      TypeError: If a size is not an integer.
      ValueError: If one is negative.
    """
    given = shape if isinstance(shape, tuple | list) else (shape,)
    sizes = tuple(check_integer(size, name) for size in given)
    if any(size < 0 for size in sizes):
        raise ValueError(f"{name} must hold no negative size, got {shape}.")
    return sizes


def check_number(value: object, name: str, least: float = -np.inf) -> float:
    """Returns `value` as a Python number.

    Raises:
      TypeError: If it is not one, or not known while tracing.
      ValueError: If it is NaN or below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        raise TypeError(f"{name} must be a Python number, got {shown(value)}.")
    if not value >= least:
        bound = "a number" if least == -np.inf else f"at least {least:g}"
        raise ValueError(f"{name} must be {bound}, got {value}.")
    return float(value)


def check_finite(value: object, name: str, least: float = -np.inf) -> float:
    """Returns `value` as a finite Python number.

    Raises:
      TypeError: If it is not one, or not known while tracing.
      ValueError: If it is NaN, infinite or below `least`.
    """
    number = check_number(value, name, least)
    if not np.isfinite(number):
        raise ValueError(f"{name} must be finite, got {number}.")
    return number


def check_scalar(value: ArrayLike, name: str) -> np.ndarray | Array:
    """Returns a real scalar as an array, of NumPy if it is known while tracing.

    Raises:
      TypeError: If it is not a real number.
      ValueError: If it is not a scalar.
    """
    array = value if isinstance(value, jax.core.Tracer) else np.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be a real number, got {shown(value)}.")
    if array.ndim:
        raise ValueError(f"{name} must be a scalar, got the shape {array.shape}.")
    return array


def check_unbiased(unbiased: bool, mask: Array) -> None:
    """Checks that `unbiased` is not combined with fractional weights.

    Raises:
      ValueError: If both are given.
    """
    if unbiased and jnp.issubdtype(mask.dtype, jnp.floating):
        raise ValueError(
            "unbiased=True needs a number of elements, so mask must be boolean or "
            f"integer, got weights of dtype {mask.dtype}. If they are all 0 or 1, pass "
            "mask > 0."
        )
