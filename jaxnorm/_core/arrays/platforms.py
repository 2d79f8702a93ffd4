"""What some platforms compute in another way, with the same result up to rounding."""

from collections.abc import Callable

from jax import Array, lax


def by_platform(
    *args: Array, gpu: Callable[..., Array], default: Callable[..., Array]
) -> Array:
    """Returns `gpu(*args)` in programs for GPUs, `default(*args)` in all others.

    The platform is that for which a program is compiled, so that no program branches.
    """
    return lax.platform_dependent(*args, cuda=gpu, rocm=gpu, default=default)
