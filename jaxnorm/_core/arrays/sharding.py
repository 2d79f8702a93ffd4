"""Shardings that are part of an array's type, on meshes with Explicit axes.

There XLA does not choose shardings: a sum needs no change, but a reshape or a running
product along a sharded axis has to say how its result is sharded.
"""

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from jaxnorm._core.arrays.dtypes import as_array
from jaxnorm._core.arrays.known import MaybeKnown, is_known

Names = str | tuple[str, ...] | None


def axis_names(value: Array) -> list[Names] | None:
    """Returns the mesh axes along each axis of value; None if its type has none."""
    sharding = jax.typeof(value).sharding
    if AxisType.Explicit not in sharding.mesh.axis_types:
        return None
    return list(sharding.spec)


def named_sharding(value: Array, names: Sequence[Names]) -> NamedSharding:
    """Returns a sharding on the mesh of value, given mesh axes for each axis."""
    return NamedSharding(jax.typeof(value).sharding.mesh, PartitionSpec(*names))


def number_of_shards(value: Array, names: Names) -> int:
    """Returns the number of shards along an axis of value that has these mesh axes."""
    mesh = jax.typeof(value).sharding.mesh
    names = (names,) if isinstance(names, str) else names or ()
    return math.prod(mesh.shape[name] for name in names)


def gather(value: Array, axis: int) -> Array:
    """Returns value unsharded along an axis, if its type says that it is sharded."""
    names = axis_names(value)
    if names is None or names[axis] is None:
        return value
    names[axis] = None
    return jax.sharding.reshard(value, named_sharding(value, names))


def split(value: Array, index: int, axis: int) -> tuple[Array, Array]:
    """Splits value in two at an index of an axis.

    If its type says that a part would not divide into the shards of the axis, value is
    gathered along it first.
    """
    names, sizes = axis_names(value), (index, value.shape[axis] - index)
    if names and any(size % number_of_shards(value, names[axis]) for size in sizes):
        value = gather(value, axis)
    first, second = jnp.split(value, [index], axis)
    return first, second


def shard_as(value: Array, smaller: Array) -> Array:
    """Returns `smaller`, which broadcasts to value, sharded as value is."""
    names = axis_names(value)
    if names is None:
        return smaller
    return _reshard(smaller, value, names)


def where(condition: MaybeKnown | np.bool, a: ArrayLike, b: ArrayLike) -> Array:
    """Returns `jnp.where(condition, a, b)`, whatever the shardings of its operands.

    Where shardings are part of types, arithmetic infers the sharding of its result, but
    a select needs operands of one shape and sharding. A condition that is known, and
    the same everywhere, needs no select.
    """
    if is_known(condition) and np.all(condition) == np.any(condition):
        selected = a if np.all(condition) else b
        if jnp.shape(selected) == jnp.broadcast_shapes(
            *(jnp.shape(value) for value in (condition, a, b))
        ):
            return as_array(selected)
    operands = [as_array(condition), as_array(a), as_array(b)]
    typed = [value for value in operands if axis_names(value) is not None]
    if not typed:
        return jnp.where(operands[0], a, b)
    shape = jnp.broadcast_shapes(*(value.shape for value in operands))
    names: list[Names] = [None] * len(shape)
    for value in typed:
        for axis, name in enumerate(axis_names(value) or (), len(shape) - value.ndim):
            names[axis] = names[axis] or name
    # Sharded while small: the gradient is then summed before it crosses devices.
    whole = named_sharding(typed[0], names)
    condition, a, b = (
        jnp.broadcast_to(_reshard(v, typed[0], names), shape, out_sharding=whole)
        for v in operands
    )
    return jnp.where(condition, a, b)


def _reshard(value: Array, like: Array, names: Sequence[Names]) -> Array:
    """Returns value sharded along its axes by the last `names`, but not at size 1."""
    last = names[len(names) - value.ndim :]
    sizes = zip(last, value.shape, strict=True)
    shared = [name if size > 1 else None for name, size in sizes]
    if axis_names(value) == shared:  # a constraint that XLA need not look at
        return value
    return jax.sharding.reshard(value, named_sharding(like, shared))
