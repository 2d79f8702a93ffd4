"""Squared lengths of weights, scaled so that they neither overflow nor underflow."""

import functools
from typing import NamedTuple

import jax
from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arrays.platforms import by_platform
from jaxnorm._core.arrays.rematerialization import tag_for_remat
from jaxnorm._core.arrays.safe_math import real_inner_product
from jaxnorm._core.reductions.collectives import MappedAxes

ALONE = MappedAxes.none()


def unit_of(
    w: Array,
    axes: tuple[int, ...] | None = None,
    least: Array | float = 0.0,
    mapped_axes: MappedAxes = ALONE,
) -> tuple[Array, Array]:
    """Returns a power of two near the largest element along `axes`, and its reciprocal.

    The largest element is the largest real or imaginary part. Multiplying by a power of
    two does not round, so that results which should not depend on the size of a weight
    are independent of it to the last bit. Both values are constants under
    differentiation. If all elements are 0, they are 1 and 0: a product with 0 has no
    derivative. Infinite and NaN elements propagate.

    Args:
      w: Weight, in the dtype to compute in.
      axes: Axes to reduce, which have size 1 in the result; None reduces all.
      least: Lower bound of the largest part; a scalar.
      mapped_axes: Mapped axes over which `axes` are divided.
    """
    largest = mapped_axes.max(_largest(lax.stop_gradient(w), axes, least))
    return _power_of_two(largest, largest / 4)


def _power_of_two(largest: Array, size: Array) -> tuple[Array, Array]:
    """Returns a power of two near `size` and its reciprocal, or 1 and 0 for zeros."""
    kind = jnp.finfo(size.dtype)
    # Rounding away all mantissa bits leaves a power of two. Neither the power nor its
    # reciprocal may be subnormal, because many processors flush subnormal numbers to 0:
    # a fourth of the largest number is rounded to 1 / tiny.
    unit = lax.reduce_precision(size, kind.nexp, mantissa_bits=0)
    unit = jnp.maximum(unit, kind.tiny)
    zero = largest == 0
    return (
        jnp.where(zero, jnp.ones_like(unit), unit),
        jnp.where(zero, jnp.zeros_like(unit), 1 / unit),
    )


def _largest(w: Array, axes: tuple[int, ...] | None, least: Array | float) -> Array:
    """Returns the largest absolute real or imaginary part along `axes`, or `least`."""
    size = jnp.abs(w.real)
    if jnp.iscomplexobj(w):  # parts, since the absolute value may overflow
        size = jnp.maximum(size, jnp.abs(w.imag))
    return size.max(axes, keepdims=True, initial=least)


class SquaredLength(NamedTuple):
    """The squared lengths of vectors.

    Attributes:
      unit: The power of two by which the vectors are divided.
      reciprocal: The reciprocal of `unit`; 0 for a vector of zeros.
      square: The squared length of the divided vectors.
    """

    unit: Array
    reciprocal: Array
    square: Array


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1, 2))
def squared_length(
    axes: tuple[int, ...],
    chained: bool,
    mapped_axes: MappedAxes,
    v: Array,
    least: Array,
) -> SquaredLength:
    """Returns the squared lengths of vectors along `axes`, divided by a power of two.

    On the CPU, where each reduction is a separate pass over v, the largest element
    first determines the unit, and then the squares are summed. Accelerators take a
    single pass over v: they sum the squares in three units, and the largest element
    selects one of the three sums.

    Args:
      axes: Axes of the vectors; they have size 1 in the result.
      chained: Whether XLA for GPUs can keep vectors on the chip, where consecutive
        reductions cost nothing. It cannot under differentiation.
      mapped_axes: Mapped axes over which the vectors are divided.
      v: Vectors, in the dtype to compute in.
      least: Lower bound of the largest part; a scalar.
    """

    def in_turn(v: Array, least: Array) -> SquaredLength:
        unit, reciprocal = unit_of(v, axes, least, mapped_axes)
        v = v * reciprocal.astype(v.dtype)
        (square,) = mapped_axes.sum((_sum_of_squares(v, axes),))
        return SquaredLength(unit, reciprocal, square)

    def at_once(v: Array, least: Array) -> SquaredLength:
        largest = _largest(v, axes, least)
        kind = jnp.finfo(largest.dtype)
        # Numbers between 1 / limit and limit can be squared and summed as they are. All
        # others are first multiplied or divided by limit**2.
        limit = 2.0 ** (kind.maxexp // 3)
        units = 1.0, limit**2, limit**-2
        squares = [_sum_of_squares(v * (1 / unit), axes) for unit in units]
        which = jnp.where(largest > limit, 1, jnp.where(largest < 1 / limit, 2, 0))
        square = lax.select_n(which, *squares)
        chosen = lax.select_n(which, *(jnp.full_like(square, unit) for unit in units))
        # A unit near the length keeps the derivatives of the square from overflowing.
        size = jnp.maximum(chosen * (jnp.sqrt(square) / 2), least / 4)
        unit, reciprocal = _power_of_two(largest, jnp.minimum(size, 1 / kind.tiny))
        reciprocal = reciprocal + 0 * largest  # NaN if any element is not finite
        return SquaredLength(unit, reciprocal, square * (chosen * reciprocal) ** 2)

    if mapped_axes.names:
        return in_turn(v, least)
    gpu = in_turn if chained else at_once
    return by_platform(v, least, gpu=gpu, cpu=in_turn, default=at_once)


@squared_length.defjvp
def _squared_length_jvp(
    axes: tuple[int, ...],
    chained: bool,
    mapped_axes: MappedAxes,
    primals: tuple[Array, Array],
    tangents: tuple[Array, Array],
) -> tuple[SquaredLength, SquaredLength]:
    """Differentiates the square alone; `unit` and `reciprocal` are constants."""
    del chained
    v, least = primals
    result = squared_length(axes, False, mapped_axes, v, least)
    # Tagged here, because the derivative uses these values.
    result = SquaredLength(result.unit, *tag_for_remat(result[1:]))
    reciprocal = result.reciprocal.astype(v.dtype)
    product = real_inner_product(v * reciprocal, tangents[0] * reciprocal)
    (half,) = mapped_axes.sum((jnp.sum(product, axes, keepdims=True),))
    zero = jnp.zeros_like(result.unit)
    return result, SquaredLength(zero, zero, 2 * half)


def _sum_of_squares(v: Array, axes: tuple[int, ...]) -> Array:
    """Returns the sum of |v|^2 along `axes`, which get size 1."""
    return jnp.sum(real_inner_product(v, v), axes, keepdims=True)
