"""An approximate mean of x, to subtract before squares are summed.

The exact mean costs one more read of x, unless x is still on the chip. The mean of a
part of x works as well. If the part has 1/n of the elements, its mean is within
sqrt(n - 1) standard deviations of the mean of all elements (by the Cauchy-Schwarz
inequality), whatever x is. So the variance loses at most its last log2(n) bits.
"""

import functools

import jax
from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm._core.arrays.platforms import by_platform
from jaxnorm._core.arrays.sharding import axis_names
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.reductions.rows import IN_ONE_KERNEL, has_rows

_PARTS = 32  # number of parts of x, one of which is read


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def approximate_mean(x: Array, reduction: Reduction) -> Array:
    """Returns an approximate mean of x, of the shape of its statistics.

    It reads a part of x. On GPUs it reads all of x if the reduced rows are so short
    that one kernel normalizes them. This kernel cannot save anything for a backward
    pass, so under differentiation a part is read on all platforms. The derivative is 0.

    Args:
      x: Input, without a mask.
      reduction: The axes and devices to average over.
    """
    return _approximate_mean(x, reduction, differentiated=False)


@approximate_mean.defjvp
def _approximate_mean_jvp(
    reduction: Reduction, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    del tangents
    x = lax.stop_gradient(primals[0])
    mean = _approximate_mean(x, reduction, differentiated=True)
    return mean, jnp.zeros_like(mean)


def _approximate_mean(x: Array, reduction: Reduction, *, differentiated: bool) -> Array:
    """Implements `approximate_mean`; `differentiated` means under differentiation."""
    dtype = accumulation_dtype(x.dtype)
    part = _slices_of_part(x, reduction)

    def of_all(x: Array) -> Array:
        return reduction.local_mean(x.astype(dtype))

    def of_part(x: Array) -> Array:
        return reduction.local_mean(x[part].astype(dtype))

    if has_rows(x, reduction, IN_ONE_KERNEL) and not differentiated:
        mean = by_platform(x, gpu=of_all, default=of_part)
    else:
        mean = of_part(x)
    return reduction.mapped_axes.mean(mean)


def _slices_of_part(x: Array, reduction: Reduction) -> tuple[slice, ...]:
    """Returns slices of x that hold about 1/32 of the elements behind each mean.

    Axes that are sharded according to their types, or have a symbolic size, are not
    sliced.
    """
    names = axis_names(x) or [None] * x.ndim
    slices, parts = [slice(None)] * x.ndim, _PARTS
    for axis in reduction.axes:
        size = x.shape[axis]
        if names[axis] is None and isinstance(size, int) and size:
            length = -(-size // parts)
            parts = max(parts * length // size, 1)
            slices[axis] = slice(length)
    return tuple(slices)
