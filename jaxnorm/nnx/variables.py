"""Helpers of all modules: reading variables, dtypes, attributes and signatures."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar, overload

from flax import nnx
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

_T = TypeVar("_T")
PromoteDtype = Callable[..., tuple[Any, ...]]

# An attribute may be None, which most code that reads it does not expect.
Parameter = nnx.Param[Array] | Any
Statistic = nnx.BatchStat[Array] | Any


def created(*, init: Literal[False] = False) -> Any:
    """Declares an attribute that the constructor creates and does not take."""
    return dataclasses.field(init=init)


def check_model(model: object, of_linen: str) -> None:
    """Checks that a model is an NNX module.

    Args:
      model: The argument that the user passed.
      of_linen: What to do with a Linen model, for the error message.

    Raises:
      TypeError: If the model is not an NNX module.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(
            f"model must be a flax.nnx.Module, got {type(model).__qualname__}. For a "
            f"Linen model, {of_linen}."
        )


def keep_dtypes(
    arrays: tuple[Any, ...], *, dtype: DTypeLike | None = None
) -> tuple[Any, ...]:
    """Returns the arrays unchanged; the default of `promote_dtype`.

    The functions compute in float32 or wider, and round only the result. The default of
    Flax, `flax.nnx.nn.dtypes.promote_dtype`, rounds the input to `dtype` before its
    mean is subtracted.

    Args:
      arrays: The input, possibly statistics, scale and bias; any may be None.
      dtype: Dtype of the result.
    """
    del dtype
    return arrays


@overload
def read(variable: nnx.Variable[Array]) -> Array: ...
@overload
def read(variable: nnx.Variable[Array] | None) -> Array | None: ...
def read(variable: nnx.Variable[Array] | None) -> Array | None:
    """Returns the array of a variable; None for None."""
    # A loaded checkpoint may hold NumPy arrays.
    return None if variable is None else jnp.asarray(variable.get_value())


def as_static(value: Any) -> Any:
    """Converts nested sequences to tuples, which static attributes must be."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return tuple(as_static(item) for item in value)


def show_signature(cls: type[_T]) -> type[_T]:
    """Gives a class the signature of its constructor, instead of its metaclass's."""
    signature = inspect.signature(cls.__init__)
    _, *parameters = signature.parameters.values()
    cls.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters
    )
    return cls
