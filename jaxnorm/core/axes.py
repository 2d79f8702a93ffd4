"""Which axes of x keep their own statistics, and how smaller arrays line up with x.

Inside the package every statistic, parameter and mask has the rank of x, with size 1
where it is shared. These functions bring what a user passes into that form.
"""

import operator
from collections.abc import Sequence

from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm.core.dtypes import as_array
from jaxnorm.core.sharding import shard_as

Axes = int | Sequence[int]


def canonical_axes(
    axes: Axes, ndim: int, name: str = "feature_axes"
) -> tuple[int, ...]:
    """Returns `axes` as non-negative integers in ascending order.

    Args:
      axes: One axis or several, negative ones counted from the end.
      ndim: Rank of the array that they index.
      name: The argument's name, for the error messages.

    Raises:
      TypeError: If an axis is not an integer.
      ValueError: If an axis is out of range or named twice.
    """
    try:
        given = [_index(axis) for axis in _as_sequence(axes)]
    except TypeError:
        raise TypeError(
            f"{name} must be an integer or a sequence of integers, got {axes!r}."
        ) from None
    for axis in given:
        if not -ndim <= axis < ndim:
            raise ValueError(
                f"{name} must lie in [{-ndim}, {ndim}) for an input of rank {ndim}, "
                f"got {axes!r}. Does the input lack a batch dimension?"
            )
    canonical = sorted(axis % ndim for axis in given)
    if len(set(canonical)) < len(canonical):
        raise ValueError(
            f"{name} must name each axis once, got {axes!r}, which for an input of "
            f"rank {ndim} is {tuple(canonical)}."
        )
    return tuple(canonical)


def other_axes(axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Returns the axes of an array of rank `ndim` that are not in `axes`."""
    return tuple(axis for axis in range(ndim) if axis not in axes)


def one_axis(axis: Axes, ndim: int, name: str = "feature_axes") -> int:
    """Returns the one axis, as a non-negative integer.

    Raises:
      TypeError: If it is not an integer.
      ValueError: If it is out of range, or there are several.
    """
    axes = canonical_axes(axis, ndim, name)
    if len(axes) != 1:
        raise ValueError(f"{name} must be one axis here, got {axis!r}.")
    return axes[0]


def batch_axis(feature_axes: tuple[int, ...]) -> int:
    """Returns the axis along which the examples lie: the first.

    Raises:
      ValueError: If it is among the canonical feature axes.
    """
    if 0 in feature_axes:
        raise ValueError(
            "feature_axes must not include the first axis, which is that of the "
            f"examples, got {feature_axes}. For a single example add one: x[None]."
        )
    return 0


def space_axes(
    reduction_axes: Axes | None, feature_axes: tuple[int, ...], ndim: int
) -> tuple[int, ...]:
    """Returns the axes that are reduced where features keep their own statistics.

    Args:
      reduction_axes: As the user gives them; None: all but the first, which is the
        batch, and the features.
      feature_axes: Canonical feature axes.
      ndim: Rank of the input.

    Raises:
      ValueError: If a feature axis is among those given; or the first axis is, and none
        are given.
    """
    if reduction_axes is None:
        return other_axes((batch_axis(feature_axes), *feature_axes), ndim)
    axes = canonical_axes(reduction_axes, ndim, "reduction_axes")
    if not set(axes).isdisjoint(feature_axes):
        raise ValueError(
            "reduction_axes must not include a feature axis, since each feature keeps "
            f"its own statistics, got {reduction_axes!r} and the feature axes "
            f"{feature_axes}. To reduce these too use layer_norm or group_norm."
        )
    return axes


def sizes(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the sizes of `axes`."""
    return tuple(shape[axis] for axis in axes)


def align(
    value: ArrayLike, x: Array, feature_axes: tuple[int, ...], name: str
) -> Array:
    """Returns a per-feature `value` with the rank of x, sharded as x is.

    Args:
      value: An array of the feature shape (the sizes of `feature_axes`), or one of the
        rank of x with, along each axis, the size of x or 1 where it is shared.
      x: The input.
      feature_axes: Canonical feature axes.
      name: The argument's name, for the error message.

    Raises:
      ValueError: If the shape of `value` is neither.
    """
    value, shape = jnp.asarray(value), x.shape
    feature_shape = sizes(shape, feature_axes)
    if value.shape == feature_shape:
        value = jnp.expand_dims(value, other_axes(feature_axes, len(shape)))
        return shard_as(x, value)
    if broadcasts(value.shape, shape):
        return shard_as(x, value)
    raise ValueError(
        f"{name} must have the feature shape {feature_shape} (axes {feature_axes} of "
        f"an input of shape {shape}), or the input's rank with size 1 where it is "
        f"shared, got {value.shape}. Are feature_axes the axes you mean?"
    )


def align_mask(mask: ArrayLike, x: Array) -> Array:
    """Returns `mask` with the rank of x: booleans, or floating weights.

    Args:
      mask: An array that broadcasts to x. Booleans and integers (nonzero: a member)
        become booleans; floating values are weights and stay.
      x: The input.

    Raises:
      TypeError: If `mask` is no array, or complex.
      ValueError: If it does not broadcast to x.
    """
    mask, shape = as_array(mask, "mask"), x.shape
    if jnp.issubdtype(mask.dtype, jnp.complexfloating):
        raise TypeError(
            "mask must be boolean, integer or real (non-negative weights), got "
            f"{mask.dtype}."
        )
    if mask.ndim > len(shape) or not broadcasts(
        (1,) * (len(shape) - mask.ndim) + mask.shape, shape
    ):
        raise ValueError(
            f"mask must broadcast to the input's shape {shape}, got {mask.shape}. "
            + _how_to_align(mask.shape, shape)
        )
    mask = jnp.expand_dims(mask, tuple(range(len(shape) - mask.ndim)))
    mask = shard_as(x, mask)
    return mask if jnp.issubdtype(mask.dtype, jnp.floating) else mask.astype(bool)


def _how_to_align(mask: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Returns what to do with a mask that does not broadcast to a shape."""
    others = len(shape) - len(mask)
    if mask and others > 0 and broadcasts(mask, shape[: len(mask)]):
        index = ", ".join(["...", *["None"] * others])
        return f"One of the leading axes needs trailing axes of size 1: mask[{index}]."
    return "Where it does not tell elements of an axis apart, its size is 1 there."


def _as_sequence(axes: Axes) -> Sequence[int]:
    return axes if isinstance(axes, Sequence) else (axes,)


def _index(axis: int) -> int:
    if isinstance(axis, bool):  # which would be the axis 0 or 1
        raise TypeError
    return operator.index(axis)


def broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Returns whether a shape is of the same rank, with 1 where it is not the same."""
    if len(small) != len(large):
        return False
    return all(a in (1, b) for a, b in zip(small, large, strict=True))
