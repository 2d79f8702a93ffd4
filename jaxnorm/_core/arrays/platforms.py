"""Selection of an implementation by platform, for equal results up to rounding."""

from collections.abc import Callable
from typing import TypeVar

from jax import Array, lax

_Result = TypeVar("_Result")


def by_platform(
    *args: Array,
    gpu: Callable[..., _Result],
    default: Callable[..., _Result],
    cpu: Callable[..., _Result] | None = None,
) -> _Result:
    """Returns `gpu(*args)` in programs for GPUs, and `default(*args)` in others.

    Programs for CPUs return `cpu(*args)`, if it is given. The platform is known when a
    program is compiled, so the program contains no branches.
    """
    branches = {"cuda": gpu, "rocm": gpu} | ({} if cpu is None else {"cpu": cpu})
    return lax.platform_dependent(*args, **branches, default=default)
