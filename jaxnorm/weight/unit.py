"""The unit in which the squares of a weight neither overflow nor underflow."""

from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.collectives import MappedAxes
from jaxnorm._core.dtypes import real_dtype

ALONE = MappedAxes.none()


def unit_of(
    w: Array,
    axes: tuple[int, ...] | None = None,
    least: Array | float = 0.0,
    mapped_axes: MappedAxes = ALONE,
) -> Array:
    """Returns a power of two near the largest absolute value along `axes`.

    Division by it rounds nothing, so that the size of a weight leaves no trace in what
    does not depend on it. It is a constant to the derivative. A unit of zeros has 1; an
    infinite or NaN element shows.

    Args:
      w: Weight, in the dtype to compute in.
      axes: Axes to reduce, which have size 1 in the result; None: all.
      least: What the largest absolute value counts as at least.
      mapped_axes: Mapped axes over which `axes` are divided.
    """
    largest = jnp.abs(lax.stop_gradient(w)).max(axes, keepdims=True, initial=0.0)
    largest = jnp.maximum(mapped_axes.max(largest), jnp.asarray(least, largest.dtype))
    kind = jnp.finfo(real_dtype(w.dtype))
    # Without mantissa bits a power of two is left; half of it is never rounded to inf.
    unit = lax.reduce_precision(largest / 2, kind.nexp, mantissa_bits=0)
    # Neither it nor its reciprocal, by which XLA may multiply, may be subnormal: many
    # processors take such numbers for 0.
    unit = jnp.maximum(unit, kind.tiny)
    unit = jnp.where(unit == 2 / kind.tiny, 1 / kind.tiny, unit)
    return jnp.where(largest == 0, jnp.ones_like(unit), unit)
