"""Checks of the functions that replace one normalizer by another."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

_Module = TypeVar("_Module")


def check_replacements(
    replacements: Mapping[type[Any], Any], module: type[Any]
) -> None:
    """Checks that classes are mapped to functions, and not to modules.

    Args:
      replacements: The argument of the user.
      module: The class of all modules of the framework.

    Raises:
      TypeError: If they are not a dict, or a value is a module, the class of one, or
        not a function.
    """
    if not isinstance(replacements, Mapping):
        given = getattr(replacements, "__name__", type(replacements).__name__)
        raise TypeError(
            "replacements must be a dict from classes to functions, got "
            f"{given}. For example, {{BatchNorm: lambda norm: GroupNorm(...)}}."
        )
    for cls, make in replacements.items():
        is_class = isinstance(make, type) and issubclass(make, module)
        if is_class or isinstance(make, module) or not callable(make):
            given = make if is_class else type(make)
            raise TypeError(
                "replacements must map each class to a function of the old module, "
                f"got {given.__name__} for {cls.__name__}. For example, "
                f"{cls.__name__}: lambda norm: GroupNorm(...)."
            )


def make_replacement(
    make: Callable[[Any], _Module], old: Any, module: type[_Module]
) -> _Module:
    """Calls the user's function on a module, and checks that it returns a module.

    Raises:
      TypeError: If the function does not return a module.
    """
    new = make(old)
    if not isinstance(new, module):
        raise TypeError(
            f"The function that replaces {type(old).__name__} must return a module, "
            f"got {type(new).__name__}."
        )
    return new
