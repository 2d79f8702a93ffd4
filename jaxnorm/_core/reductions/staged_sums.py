"""Sums over several axes of x that GPUs compute in two stages.

Instance, group and batch norm sum over axes before the last. XLA for GPUs gives each
block of threads some columns of such a sum. If columns are few, and too short to be
split, it estimates that the sum is slow and does not fuse it with its input: `x -
shift`, or its product with a cotangent, is written to memory, often in float32, and
read again. If only the last of these axes is summed first, there are many sums, which
are fused. The sum that remains is small.
"""

import functools
import math

from jax import Array
from jax import numpy as jnp

from jaxnorm._core.arguments.axes import sizes
from jaxnorm._core.arrays.platforms import by_platform
from jaxnorm._core.arrays.sharding import axis_names

# Of XLA for GPUs: columns of a block of threads, the elements above which it cuts a
# column into two stages by itself, and the blocks that keep a large GPU busy.
_COLUMNS, _LONG, _MANY = 32, 4096, 256
# XLA estimates a block as slower under a mask, most of all if it sums a product with a
# cotangent.
_MANY_MASKED, _MANY_MASKED_PRODUCTS = 512, 1024
_LARGE = 2**20  # elements of x; a smaller x stays in a GPU's cache
_FIRST = 16  # elements of each sum of the first stage, at least


def staged_sum(value: Array, axes: tuple[int, ...], masked: bool = False) -> Array:
    """Returns the sum over axes, which keep the size 1.

    Args:
      value: The array to sum.
      axes: The axes.
      masked: Whether a mask selected its elements.
    """
    whole = functools.partial(jnp.sum, axis=axes, keepdims=True)
    first = _first_stage(value, axes, _MANY_MASKED if masked else _MANY)
    if not first:
        return whole(value)
    second = tuple(axis for axis in axes if axis not in first)

    def in_stages(value: Array) -> Array:
        # XLA merges a sum of sums, unless there is something between them. Halving and
        # doubling do not round, except for subnormal numbers.
        sums = jnp.sum(value, first, keepdims=True)
        return 2 * jnp.sum(sums / 2, second, keepdims=True)

    return by_platform(value, gpu=in_stages, default=whole)


def broadcast_to_staged_sum(
    value: Array, x: Array, axes: tuple[int, ...], masked: bool = False
) -> Array:
    """Broadcasts a value part of the way to x, so that its cotangent is a staged sum.

    Args:
      value: An array of the rank of x, at most half the largest number of its dtype. If
        its size along one of the axes is not 1, it is returned unchanged.
      x: The array that it is broadcast to.
      axes: Axes of x over which cotangents are summed.
      masked: Whether a mask selects elements of cotangents first.
    """
    first = _first_stage(x, axes, _MANY_MASKED_PRODUCTS if masked else _MANY)
    if not first or any(value.shape[axis] != 1 for axis in axes):
        return value
    shape = list(value.shape)
    for axis in set(axes) - set(first):
        shape[axis] = x.shape[axis]

    def at_once(value: Array) -> Array:
        return jnp.broadcast_to(value, shape)

    def in_stages(value: Array) -> Array:
        return jnp.broadcast_to(2 * value, shape) / 2

    return by_platform(value, gpu=in_stages, default=at_once)


def _first_stage(x: Array, axes: tuple[int, ...], many: int) -> tuple[int, ...]:
    """Returns the axes that are summed first; none if one stage is as good.

    Args:
      x: The array to sum.
      axes: The axes.
      many: The number of blocks from which one stage is as good.
    """
    if (
        not axes
        or x.ndim - 1 in axes  # rows, each of which has threads of its own
        or not jnp.issubdtype(x.dtype, jnp.inexact)
        or not all(isinstance(size, int) for size in x.shape)
        or x.size < _LARGE
        or axis_names(x) is not None
    ):
        return ()
    length = math.prod(sizes(x.shape, axes))
    columns = math.prod(x.shape[axes[-1] + 1 :])
    blocks = x.size // (length * columns) * -(-columns // _COLUMNS)
    if length > _LONG or blocks >= many:
        return ()
    for i in range(len(axes) - 1, 0, -1):
        if math.prod(sizes(x.shape, axes[i:])) >= _FIRST:
            return axes[i:]
    return ()
