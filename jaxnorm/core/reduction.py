"""Over what a statistic is taken: axes of x, blocks of an axis, other devices."""

import dataclasses
import math
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxnorm.core.axes import sizes
from jaxnorm.core.collectives import MappedAxis


@dataclasses.dataclass(frozen=True)
class Blocks:
    """An axis of x cut into blocks of adjacent elements, each reduced by itself.

    The channels of a group, the examples of a ghost batch. What is reduced has the
    number of blocks as its size there. Only arrays that are reduced already along the
    other axes are reshaped, never x.

    Attributes:
      axis: The axis.
      size: Elements of a block; divides the axis.
    """

    axis: int
    size: int

    def sum(self, value: Array) -> Array:
        """Sums each block; a value that is shared along the axis stays as it is."""
        axis, length = self.axis, value.shape[self.axis]
        if length == 1:
            return value
        blocks = (length // self.size, self.size)
        shape = (*value.shape[:axis], *blocks, *value.shape[axis + 1 :])
        names = _names(value)
        if names is not None and _parts(value, names[axis]) > 1:
            if blocks[0] % _parts(value, names[axis]):
                names[axis] = None  # a block that lies on several devices
                value = jax.sharding.reshard(value, _sharding(value, names))
            names.insert(axis + 1, None)
            split = jnp.reshape(value, shape, out_sharding=_sharding(value, names))
        else:
            split = jnp.reshape(value, shape)
        return jnp.sum(split, axis + 1)

    def spread(self, value: Array) -> Array:
        """Repeats what is known of each block for each of its elements."""
        axis, number = self.axis, value.shape[self.axis]
        if number == 1:
            return value
        value = jnp.expand_dims(value, axis + 1)
        shape = (*value.shape[: axis + 1], self.size, *value.shape[axis + 2 :])
        repeated = jnp.broadcast_to(value, shape)
        shape = (*shape[:axis], number * self.size, *shape[axis + 2 :])
        names = _names(value)
        if names is None:
            return jnp.reshape(repeated, shape)
        del names[axis + 1]
        return jnp.reshape(repeated, shape, out_sharding=_sharding(value, names))


@dataclasses.dataclass(frozen=True)
class Reduction:
    """What is averaged over.

    Its results have the rank of x: size 1 along reduced axes, the number of blocks
    along an axis in blocks.

    Attributes:
      axes: Axes of x that are reduced as a whole.
      across: Instances of mapped axes that are reduced as well.
      blocks: An axis of which each block is reduced, or None.
    """

    axes: tuple[int, ...]
    across: MappedAxis
    blocks: Blocks | None = None

    def size(self, x: Array) -> int:
        """Elements that each statistic of x is made of, over all instances."""
        block = 1 if self.blocks is None else self.blocks.size
        return self.across.size(x) * math.prod(sizes(x.shape, self.axes)) * block

    def repeats(self, mask: Array, x: Array) -> int:
        """How many elements of x each element of an aligned mask stands for."""
        lengths = {axis: x.shape[axis] for axis in self.axes}
        if self.blocks is not None:
            lengths[self.blocks.axis] = self.blocks.size
        shared = (n for axis, n in lengths.items() if mask.shape[axis] == 1)
        return math.prod(shared)

    def sums(self, *values: Array) -> tuple[Array, ...]:
        """Sums of each value, in at most one collective."""
        return self.across.sum([self.local_sum(value) for value in values])

    def local_sum(self, value: Array) -> Array:
        """Sum on this instance alone."""
        value = jnp.sum(value, self.axes, keepdims=True)
        return value if self.blocks is None else self.blocks.sum(value)

    def spread(self, value: Array) -> Array:
        """Returns a result as an array that broadcasts against x."""
        return value if self.blocks is None else self.blocks.spread(value)


def _names(value: Array) -> list[Any] | None:
    """The mesh axes of each axis of value where its type tells them, else None."""
    sharding = jax.typeof(value).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    return list(sharding.spec)


def _parts(value: Array, name: str | tuple[str, ...] | None) -> int:
    mesh = jax.typeof(value).sharding.mesh
    names = (name,) if isinstance(name, str) else name or ()
    return math.prod(mesh.shape[n] for n in names)


def _sharding(value: Array, names: list[Any]) -> NamedSharding:
    return NamedSharding(jax.typeof(value).sharding.mesh, PartitionSpec(*names))
