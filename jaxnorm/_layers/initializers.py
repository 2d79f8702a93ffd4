"""Initializers that can be pickled and compared, which JAX's own functions cannot."""

import dataclasses
from collections.abc import Callable
from typing import Any

from jax import Array
from jax.nn.initializers import Initializer


@dataclasses.dataclass(frozen=True, repr=False)
class MadeInitializer:
    """The initializer `factory(*arguments)`, which is made in each call.

    JAX's factories return local functions. A module that has one as a default cannot
    be sent to another process.

    Attributes:
      factory: One of `jax.nn.initializers`.
      arguments: Its positional arguments.
    """

    factory: Callable[..., Initializer]
    arguments: tuple[float, ...] = ()

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        return self.factory(*self.arguments)(*args, **kwargs)

    def __repr__(self) -> str:
        arguments = ", ".join(map(repr, self.arguments))
        return f"{self.factory.__name__}({arguments})"
