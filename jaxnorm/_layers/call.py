"""Calls that say of which class they are."""

import types


def own_call(cls: type) -> None:
    """Gives a class a copy of a `__call__` that is not its own, under its name.

    Python names a function in the errors of its arguments: otherwise a base class,
    which users do not know.

    Args:
      cls: A class of jaxnorm. Those of users inherit in the order of their bases.
    """
    if not cls.__module__.startswith("jaxnorm"):
        return
    name, inherited = f"{cls.__qualname__}.__call__", cls.__call__
    if hasattr(inherited, "method_handler_wrapped"):  # by Flax, which wraps the copy
        inherited = inherited.__wrapped__  # type: ignore[attr-defined]
    if not isinstance(inherited, types.FunctionType):  # a base class without one
        return
    if inherited.__qualname__ == name:
        return
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
