"""Group normalization."""

from collections.abc import Sequence

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.axes import (
    Axes,
    batch_axis,
    canonical_axes,
    canonical_axis,
    other_axes,
)
from jaxnorm._core.arguments.validation import check_integer
from jaxnorm._core.arrays.dtypes import check_inexact, output_dtype
from jaxnorm._core.call import Call
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.reduction import Blocks, Reduction, SingleValue
from jaxnorm._core.standardize import Standardization


def group_norm(
    x: Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    num_groups: int | None = 32,
    group_size: int | None = None,
    reduction_axes: Axes | None = None,
    feature_axes: Axes = -1,
    epsilon: float = 1e-6,
    scale_offset: float = 0.0,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    allow_single_value: SingleValue = False,
    dtype: DTypeLike | None = None,
) -> Array:
    """Normalizes each group of features of each example.

    The feature axis is split into groups of adjacent features. With the mean and the
    biased variance over a group and all other `reduction_axes`::

        y = (x - mean) / sqrt(var + epsilon) * (scale_offset + scale) + bias

    With one group, this is layer norm over all axes but the batch; with groups of size
    1, it is instance norm. The backward pass keeps x, and one mean and variance for
    each group of each example.

    Args:
      x: Input of any shape; floating or complex. Statistics are computed in float32 or
        wider.
      scale: (features,); or the rank of x with 1 where shared; 1 where None.
      bias: Same shapes as scale; 0 where None.
      num_groups: Number of groups of features; divides the number of features. None if
        `group_size` is given.
      group_size: Number of features in a group; divides the number of features. Needs
        `num_groups=None`.
      reduction_axes: The axes to average over, including the feature axis; by default
        all but the first, which is the batch. For one example without a batch axis, as
        under `jax.vmap`, pass all axes: (0, 1, 2) of (height, width, features).
      feature_axes: The one feature axis.
      epsilon: Added to the variance; at least 0. If both are 0, y is the bias.
      scale_offset: As in `jaxnorm.rms_norm`.
      mask: As in `jaxnorm.layer_norm`.
      axis_name: As in `jaxnorm.layer_norm`: mapped axes over which reduced axes other
        than the features are divided. (If each device has whole groups, it is not
        needed.)
      axis_index_groups: As in `jaxnorm.layer_norm`.
      allow_single_value: As in `jaxnorm.layer_norm`.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If x is an integer array, or `dtype` is real for complex input.
      ValueError: If the groups do not divide the features, both or neither of
        `num_groups` and `group_size` are given, a shape or an axis does not fit,
        epsilon is negative, or a mean is of a single value.
      NameError: If `axis_name` is not bound.

    Reference:
      Wu and He, 2018, Group Normalization, section 3.1
      (https://arxiv.org/abs/1803.08494).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0, 3.0, 10.0, 30.0]])
      >>> jaxnorm.group_norm(x, num_groups=2).round(3)
      Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """
    x = check_inexact(x, "x")
    feature_axis = canonical_axis(feature_axes, x.ndim)
    reduced = group_axes(reduction_axes, feature_axis, x.ndim)
    size = group_length(x.shape[feature_axis], num_groups, group_size)
    groups = Blocks(feature_axis, size)
    reduction = Reduction.over(x, reduced, axis_name, axis_index_groups, groups)
    reduction.check_several(x, allow_single_value)
    dtype = output_dtype(dtype, x=x, scale=scale, bias=bias)
    spec = Standardization(reduction, epsilon, dtype)
    call = Call.parse(x, scale, bias, mask, (feature_axis,), spec, scale_offset)
    return call.standardize(call.own_moments())


def group_axes(
    reduction_axes: Axes | None, feature_axis: int, ndim: int
) -> tuple[int, ...]:
    """Returns the axes that are reduced in addition to groups of features.

    Raises:
      ValueError: If the given axes lack the feature axis; or if none are given, and
        the feature axis is the first.
    """
    if reduction_axes is None:
        return other_axes((batch_axis((feature_axis,)), feature_axis), ndim)
    axes = canonical_axes(reduction_axes, ndim, "reduction_axes")
    if feature_axis not in axes:
        raise ValueError(
            f"reduction_axes must include the feature axis {feature_axis}, since "
            f"groups of features are reduced, got {reduction_axes!r}. To reduce the "
            "other axes alone use instance_norm, or layer_norm or rms_norm without "
            "groups."
        )
    return tuple(axis for axis in axes if axis != feature_axis)


def group_length(
    features: int, num_groups: int | None, group_size: int | None = None
) -> int:
    """Returns the number of features in a group.

    Raises:
      ValueError: If both or neither of the two are given, or the groups do not divide
        the features.
    """
    if (num_groups is None) == (group_size is None):
        raise ValueError(
            "one of num_groups and group_size must be given, got "
            f"num_groups={num_groups} and group_size={group_size}. For a group_size "
            "pass num_groups=None."
        )
    if num_groups is None:
        return check_divisor(group_size, features, "group_size")
    return features // check_divisor(num_groups, features, "num_groups")


def check_divisor(value: object, features: int, name: str) -> int:
    """Returns `value` as a Python integer that divides the number of features.

    Raises:
      TypeError: If it is not an integer.
      ValueError: If it does not divide them.
    """
    number = check_integer(value, name)
    if number < 1 or features % number:
        divisors = [n for n in range(1, features + 1) if features % n == 0]
        raise ValueError(
            f"{name} must divide the number of features, {features}, got {number}. Its "
            f"divisors are {', '.join(map(str, divisors))}."
        )
    return number
