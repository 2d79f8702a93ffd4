"""The unit in which the squares of a weight neither overflow nor underflow."""

from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arrays.dtypes import real_dtype
from jaxnorm._core.reductions.collectives import MappedAxes

ALONE = MappedAxes.none()


def unit_of(
    w: Array,
    axes: tuple[int, ...] | None = None,
    least: Array | float = 0.0,
    mapped_axes: MappedAxes = ALONE,
) -> tuple[Array, Array]:
    """Returns a power of two near the largest real or imaginary part along `axes`.

    And its reciprocal, by which to multiply. Neither rounds anything, so that the size
    of a weight leaves no trace in what does not depend on it. Both are constants to the
    derivative. Where all are zeros, they are 1 and 0: a product with the latter has no
    derivative. An infinite or NaN element shows.

    Args:
      w: Weight, in the dtype to compute in.
      axes: Axes to reduce, which have size 1 in the result; None: all.
      least: What the largest part counts as at least; a scalar.
      mapped_axes: Mapped axes over which `axes` are divided.
    """
    w = lax.stop_gradient(w)
    size = jnp.abs(w.real)
    if jnp.iscomplexobj(w):  # parts, since the absolute value may overflow
        size = jnp.maximum(size, jnp.abs(w.imag))
    largest = mapped_axes.max(size.max(axes, keepdims=True, initial=least))
    kind = jnp.finfo(real_dtype(w.dtype))
    # Without mantissa bits a power of two is left. Neither it nor its reciprocal may be
    # subnormal, since many processors take such numbers for 0: a fourth of the largest
    # number is rounded to 1 / tiny.
    unit = lax.reduce_precision(largest / 4, kind.nexp, mantissa_bits=0)
    unit = jnp.maximum(unit, kind.tiny)
    zero = largest == 0
    return (
        jnp.where(zero, jnp.ones_like(unit), unit),
        jnp.where(zero, jnp.zeros_like(unit), 1 / unit),
    )
