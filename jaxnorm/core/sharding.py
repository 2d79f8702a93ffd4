"""Shardings that are part of an array's type, on meshes with Explicit axes.

There XLA does not choose: a sum may stay as it is, but a reshape or a running product
along a sharded axis has to say how its result is sharded.
"""

import math
from collections.abc import Sequence

import jax
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

Names = str | tuple[str, ...] | None


def axis_names(value: Array) -> list[Names] | None:
    """Returns the mesh axes along each axis of value; None if types do not say."""
    sharding = jax.typeof(value).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    return list(sharding.spec)


def sharding_of(value: Array, names: Sequence[Names]) -> NamedSharding:
    """Returns the sharding with those names on the mesh of value."""
    return NamedSharding(jax.typeof(value).sharding.mesh, PartitionSpec(*names))


def number_of_shards(value: Array, names: Names) -> int:
    """Returns into how many parts the mesh axes of one axis of value divide it."""
    mesh = jax.typeof(value).sharding.mesh
    names = (names,) if isinstance(names, str) else names or ()
    return math.prod(mesh.shape[name] for name in names)


def gather(value: Array, axis: int) -> Array:
    """Returns value whole along an axis, where types say that it is sharded."""
    names = axis_names(value)
    if names is None or names[axis] is None:
        return value
    names[axis] = None
    return jax.sharding.reshard(value, sharding_of(value, names))


def shard_as(value: Array, smaller: Array) -> Array:
    """Returns an array that broadcasts to value, sharded as value is.

    A selection needs that where types tell.
    """
    names = axis_names(value)
    if names is None:
        return smaller
    sizes = zip(names, smaller.shape, strict=True)
    shared = [name if size > 1 else None for name, size in sizes]
    return jax.sharding.reshard(smaller, sharding_of(value, shared))
