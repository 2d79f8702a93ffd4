"""What some platforms compute in another way, with the same result up to rounding."""

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
    """Returns `gpu(*args)` in programs for GPUs, `default(*args)` in all others.

    And in those for CPUs `cpu(*args)`, if it is given. The platform is that for which a
    program is compiled, so that no program branches.
    """
    branches = {"cuda": gpu, "rocm": gpu} | ({} if cpu is None else {"cpu": cpu})
    return lax.platform_dependent(*args, **branches, default=default)
