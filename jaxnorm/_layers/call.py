"""Names of classes in the errors of calls."""

import types
from collections.abc import Callable
from typing import Any


def copy_inherited_call(cls: type) -> Callable[..., Any] | None:
    """Copies an inherited `__call__` into a class, so that errors name this class.

    If the arguments of a call do not fit, Python names the class that defines
    `__call__`. Without the copy, this is a private base class.

    Args:
      cls: A class of jaxnorm. A class of the user gets no copy, so that it inherits in
        the order of its bases.

    Returns:
      The copy; None if the class gets none.
    """
    if not cls.__module__.startswith("jaxnorm") or "__call__" in vars(cls):
        return None
    name, inherited = f"{cls.__qualname__}.__call__", cls.__call__
    if hasattr(inherited, "method_handler_wrapped"):  # by Flax, which wraps the copy
        inherited = inherited.__wrapped__  # type: ignore[attr-defined]
    if not isinstance(inherited, types.FunctionType):  # a base class without one
        return None
    copy = types.FunctionType(
        inherited.__code__,
        inherited.__globals__,
        inherited.__name__,
        inherited.__defaults__,
        inherited.__closure__,
    )
    for attribute in ("__kwdefaults__", "__annotations__", "__doc__", "__module__"):
        setattr(copy, attribute, getattr(inherited, attribute))
    vars(copy).update(vars(inherited))
    copy.__qualname__ = name
    cls.__call__ = copy  # type: ignore[method-assign]
    return copy
