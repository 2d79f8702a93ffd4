"""Variables as arrays, and the dtypes and attributes that all modules treat alike."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, overload

from flax import nnx
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

_T = TypeVar("_T")
PromoteDtype = Callable[..., tuple[Any, ...]]


def check_model(model: object, of_linen: str) -> None:
    """Checks that a model is one of NNX; `of_linen` says what to do with another.

    Raises:
      TypeError: If it is not.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model must be a flax.nnx.Module, got {type(model).__qualname__}. Of a "
            f"Linen model {of_linen}."
        )


def keep_dtypes(
    arrays: tuple[Any, ...], *, dtype: DTypeLike | None = None
) -> tuple[Any, ...]:
    """Returns the arrays as they are: the default of `promote_dtype`.

    The functions compute in float32 or wider, and round the result, once. What Flax
    does by default, `flax.nnx.nn.dtypes.promote_dtype`, rounds the input to `dtype`
    before its mean is subtracted.

    Args:
      arrays: The input, statistics where there are some, scale and bias; any may be
        None.
      dtype: Dtype of the result.
    """
    del dtype
    return arrays


@overload
def read(variable: nnx.Variable[Array]) -> Array: ...
@overload
def read(variable: nnx.Variable[Array] | None) -> Array | None: ...
def read(variable: nnx.Variable[Array] | None) -> Array | None:
    """Returns the array that a variable holds; None for none."""
    # as an array: a loaded checkpoint holds those of NumPy
    return None if variable is None else jnp.asarray(variable.get_value())


def as_static(value: Any) -> Any:
    """Returns nested sequences as tuples, as static attributes have to be."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return tuple(as_static(item) for item in value)


def show_signature(cls: type[_T]) -> type[_T]:
    """Gives a module the signature of its constructor, and not of its metaclass."""
    signature = inspect.signature(cls.__init__)
    _, *parameters = signature.parameters.values()
    cls.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters
    )
    return cls
