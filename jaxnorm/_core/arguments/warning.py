"""Warnings that point to the user's line, wherever in the package they arise."""

import sys
import warnings

# Their frames may lie between the user's line and ours.
_PACKAGES = frozenset(
    {
        "beartype",
        "contextlib",
        "equinox",
        "flax",
        "functools",
        "jax",
        "jaxnorm",
        "jaxtyping",
    }
)


def warn_caller(message: str) -> None:
    """Warns, and points to the line that called the package."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and _package(frame.f_globals) in _PACKAGES:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _package(scope: dict[str, object]) -> str:
    """Returns the name of the package of a module, given its globals."""
    return str(scope.get("__name__", "")).partition(".")[0]
