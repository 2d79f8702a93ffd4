"""Docstrings that list all arguments of a class, including its base classes."""

import inspect
import textwrap

_HEADING = "Attributes:\n"


def document_fields(cls: type, description: type = object) -> None:
    """Completes the list of attributes in the docstring of a module.

    First the arguments of its constructor, in order, then the variables. Each is
    described by the class nearest in the method resolution order whose docstring has it
    under "Attributes:".

    Args:
      cls: The module, whose docstring is replaced.
      description: Description of the layer, if the module does not inherit it.
    """
    if cls.__doc__ is None or not cls.__module__.startswith("jaxnorm"):
        return  # under python -OO, or a class of a user
    described: dict[str, str] = {}
    variables: dict[str, str] = {}
    for base in reversed((*cls.__mro__, *description.__mro__)):
        if base.__module__.startswith("jaxnorm"):
            listed = _attributes(vars(base).get("__doc__") or "")[1]
            described |= listed
            # Descriptions without a framework do not list variables.
            if not base.__module__.startswith("jaxnorm._layers"):
                variables |= listed
    arguments = inspect.signature(cls).parameters
    names = dict.fromkeys([*arguments, *variables])
    entries = "".join(described.get(name, "") for name in names)
    own, _ = _attributes(cls.__doc__)
    before, example, after = own.partition("Example:\n")
    block = _HEADING + textwrap.indent(entries, "  ")
    cls.__doc__ = f"{before}{block}\n{example}{after}"


def _attributes(docstring: str) -> tuple[str, dict[str, str]]:
    """Returns a docstring without its attributes, and their entries by name."""
    rest, entries, name, inside = "", dict[str, str](), "", False
    for line in f"{inspect.cleandoc(docstring)}\n".splitlines(keepends=True):
        if line == _HEADING:
            inside = True
        elif line.strip() and not line.startswith(" "):
            inside = False
        if not inside:
            rest += line
        elif line != _HEADING and line.strip():
            entry = line.removeprefix("  ")
            if not entry.startswith(" "):
                name = entry.partition(":")[0]
            entries[name] = entries.get(name, "") + entry
    return rest, entries
