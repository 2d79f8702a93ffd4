"""What curves that take the place of layer norm share: dynamic tanh, dynamic erf."""

import functools
from collections.abc import Callable

import jax
from jax import Array
from jax.typing import DTypeLike

from jaxnorm._core.arguments.align import align_affine, align_parameter
from jaxnorm._core.arguments.axes import Axes, canonical_axes
from jaxnorm._core.arrays.dtypes import accumulation_dtype, output_dtype


def bend(
    curve: Callable[..., Array],
    x: Array,
    parameters: dict[str, Array],
    scale: Array | None,
    bias: Array | None,
    *,
    feature_axes: Axes,
    dtype: DTypeLike | None,
) -> Array:
    """Returns `curve(x, *parameters) * scale + bias` of each element.

    Args:
      curve: Applies to each element.
      x: Input, checked to be inexact.
      parameters: Of the curve, by name: as the user gives them, like all that follow.
      scale: See `jaxnorm.dynamic_tanh`.
      bias: See `jaxnorm.dynamic_tanh`.
      feature_axes: See `jaxnorm.dynamic_tanh`.
      dtype: See `jaxnorm.dynamic_tanh`.
    """
    features = canonical_axes(feature_axes, x.ndim)
    own = [align_parameter(p, name, x, features) for name, p in parameters.items()]
    result = output_dtype(dtype, x=x, scale=scale, bias=bias)
    scale, bias = align_affine(x, scale, bias, features)
    # Else the curve's values would be kept beside x, both in float32.
    apply = jax.checkpoint(functools.partial(_bend, curve, result))
    return apply(x, own, scale, bias)


def _bend(
    curve: Callable[..., Array],
    result: DTypeLike,
    x: Array,
    parameters: list[Array],
    scale: Array,
    bias: Array,
) -> Array:
    wide = accumulation_dtype(result, x.dtype)
    x, parameters, scale, bias = jax.tree.map(
        lambda value: value.astype(wide), (x, parameters, scale, bias)
    )
    return (curve(x, *parameters) * scale + bias).astype(result)
