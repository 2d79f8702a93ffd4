"""Checks the arguments that accompany x, and gives them the rank of x.

Inside the package every statistic, parameter and mask has the rank of x, with size 1
where it is shared. These functions bring what a user passes into that form.
"""

from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arguments.axes import other_axes, sizes
from jaxnorm._core.arguments.validation import check_finite
from jaxnorm._core.arguments.warning import warn_caller
from jaxnorm._core.arrays.dtypes import (
    accumulation_dtype,
    as_array,
    check_inexact,
    check_real,
    real_dtype,
)
from jaxnorm._core.arrays.sharding import shard_as


def align_affine(
    x: Array,
    scale: ArrayLike | None,
    bias: ArrayLike | None,
    feature_axes: tuple[int, ...],
    scale_offset: float = 0.0,
) -> tuple[Array, Array]:
    """Returns scale and bias with the rank of x.

    Args:
      x: Input.
      scale: Feature shape, or the rank of x with 1 where shared; 1 where None.
      bias: Same shapes as scale; 0 where None.
      feature_axes: Canonical feature axes.
      scale_offset: Added to `scale`, if given, in float32 or wider.
    """
    scale_offset = check_finite(scale_offset, "scale_offset")
    one = (1,) * x.ndim
    if scale is None:
        scale = jnp.ones(one, x.dtype)
    else:
        scale = _expand(check_inexact(scale, "scale"), x, feature_axes, "scale")
        if scale_offset:
            wide = accumulation_dtype(scale.dtype, real_dtype(x.dtype))
            scale = scale.astype(wide) + scale_offset
    if bias is None:
        bias = jnp.zeros(one, x.dtype)
    else:
        bias = _expand(check_inexact(bias, "bias"), x, feature_axes, "bias")
    return shard_as(x, scale), shard_as(x, bias)


def align_parameter(
    value: Array, name: str, x: Array, feature_axes: tuple[int, ...]
) -> Array:
    """Returns a learned parameter with the rank of x.

    Args:
      value: A scalar; or an array of the feature shape, or of the rank of x with 1
        where it is shared.
      name: The argument's name, for the error messages.
      x: The input.
      feature_axes: Canonical feature axes.

    Raises:
      TypeError: If it is not real and floating.
      ValueError: If it has another shape.
    """
    value = check_inexact(value, name)
    check_real("it is not a factor", **{name: value})
    if value.ndim == 0:
        return jnp.reshape(value, (1,) * x.ndim)
    return align(value, x, feature_axes, name)


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
      ValueError: If `value` has another shape.
    """
    return shard_as(x, _expand(value, x, feature_axes, name))


def _expand(
    value: ArrayLike, x: Array, feature_axes: tuple[int, ...], name: str
) -> Array:
    """Returns a per-feature `value` with the rank of x, or raises a ValueError."""
    value, shape = jnp.asarray(value), x.shape
    feature_shape = sizes(shape, feature_axes)
    if value.shape == feature_shape:
        return jnp.expand_dims(value, other_axes(feature_axes, len(shape)))
    if broadcasts(value.shape, shape):
        return value
    raise ValueError(
        f"{name} must have the feature shape {feature_shape} (axes {feature_axes} of "
        f"an input of shape {shape}), or the input's rank with size 1 where it is "
        f"shared, got {value.shape}. Are feature_axes the axes you mean?"
    )


def align_mask(mask: ArrayLike | None, x: Array) -> Array | None:
    """Returns `mask` with the rank of x, as booleans or floating weights, or None.

    A mask of lower rank lies along the last axes, as NumPy broadcasts. If it fits the
    first axes as well, a warning says so.

    Args:
      mask: An array that broadcasts to x, or None. Booleans and integers (valid where
        nonzero) become booleans; floating values are weights and stay.
      x: The input.

    Raises:
      TypeError: If `mask` is not an array, or complex.
      ValueError: If it does not broadcast to x.
    """
    if mask is None:
        return None
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
    _warn_if_ambiguous(mask.shape, shape)
    mask = jnp.expand_dims(mask, tuple(range(len(shape) - mask.ndim)))
    mask = shard_as(x, mask)
    return mask if jnp.issubdtype(mask.dtype, jnp.floating) else mask.astype(bool)


def _how_to_align(mask: tuple[int, ...], shape: tuple[int, ...]) -> str:
    """Returns the fix for a mask that does not broadcast, for the error message."""
    others = len(shape) - len(mask)
    if mask and others > 0 and broadcasts(mask, shape[: len(mask)]):
        index = _index_of_leading(others)
        return f"One of the leading axes needs trailing axes of size 1: mask[{index}]."
    return "Give it size 1 along each axis whose elements it treats alike."


def broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    """Returns whether `small` has the rank of `large`, and size 1 where they differ."""
    if len(small) != len(large):
        return False
    return all(a in (1, b) for a, b in zip(small, large, strict=True))


def _warn_if_ambiguous(mask: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Warns if a mask that broadcasts to a shape fits its first axes as well."""
    others = len(shape) - len(mask)
    ones = (1,) * others
    if ones + mask == mask + ones or not broadcasts(mask, shape[: len(mask)]):
        return
    trailing = ", ".join(["None"] * others)
    warn_caller(
        f"mask of shape {mask} fits the first axes of the input's shape {shape} as "
        "well as the last ones. It is applied to the last axes, as NumPy broadcasts. "
        f"Write mask[{trailing}] for the last axes, or "
        f"mask[{_index_of_leading(others)}] for the first axes."
    )


def _index_of_leading(others: int) -> str:
    """Returns the index that puts a mask along the first axes, as code."""
    return ", ".join(["...", *["None"] * others])
