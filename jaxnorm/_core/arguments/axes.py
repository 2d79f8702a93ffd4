"""Which axes of x keep their own statistics, and which are reduced."""

import operator
from collections.abc import Sequence

from jaxnorm._core.arguments.validation import shown

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
            f"{name} must be an integer or a sequence of integers, got {shown(axes)}."
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


def split_axes(
    feature_axes: Axes, ndim: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the canonical feature axes, and all others."""
    features = canonical_axes(feature_axes, ndim)
    return features, other_axes(features, ndim)


def other_axes(axes: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Returns the axes of an array of rank `ndim` that are not in `axes`."""
    return tuple(axis for axis in range(ndim) if axis not in axes)


def canonical_axis(axis: Axes, ndim: int, name: str = "feature_axes") -> int:
    """Returns the one axis, as a non-negative integer.

    Raises:
      TypeError: If it is not an integer.
      ValueError: If it is out of range, or there are several.
    """
    axes = canonical_axes(axis, ndim, name)
    if len(axes) != 1:
        raise ValueError(
            f"{name} must be one axis here, got {axis!r}. Pass one integer."
        )
    return axes[0]


def batch_axis(feature_axes: tuple[int, ...]) -> int:
    """Returns the axis of the examples: the first.

    Raises:
      ValueError: If it is among the canonical feature axes.
    """
    if 0 in feature_axes:
        raise ValueError(
            "feature_axes must not include the first axis, which is the batch, got "
            f"{feature_axes}. For a single example add a batch axis: x[None]."
        )
    return 0


def space_axes(
    reduction_axes: Axes | None, feature_axes: tuple[int, ...], ndim: int
) -> tuple[int, ...]:
    """Returns the axes that are reduced for each feature of each example.

    Args:
      reduction_axes: As the user gives them; None: all but the first, which is the
        batch, and the features.
      feature_axes: Canonical feature axes.
      ndim: Rank of the input.

    Raises:
      ValueError: If the given axes include a feature axis; or none are given, and the
        first axis is a feature axis.
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


def _as_sequence(axes: Axes) -> Sequence[int]:
    """Returns a sequence of axes; a single axis in a tuple."""
    return axes if isinstance(axes, Sequence) else (axes,)


def _index(axis: int) -> int:
    """Returns an axis as a Python integer, or raises a TypeError."""
    if isinstance(axis, bool):  # which would be the axis 0 or 1
        raise TypeError
    return operator.index(axis)
