"""Constructors with explicit signatures."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any


def with_parameters(
    construct: Callable[..., None], parameters: Iterable[inspect.Parameter]
) -> Callable[..., None]:
    """Returns an `__init__` with the given parameters, including self.

    Args:
      construct: Called with the arguments as keywords.
      parameters: Parameters of the signature, in order.
    """
    signature = inspect.Signature([*parameters])

    def __init__(*args: Any, **kwargs: Any) -> None:  # noqa: N807
        try:
            given = signature.bind(*args, **kwargs)
        except TypeError as error:
            _, *names = signature.parameters
            raise TypeError(
                f"{type(args[0]).__name__}() {error}. Its arguments are: "
                f"{', '.join(names)}."
            ) from None
        construct(**given.arguments)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__
