"""Scale and bias, as every normalizer takes them."""

from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm.core.axes import align
from jaxnorm.core.dtypes import accumulation_dtype, output_dtype, real_dtype
from jaxnorm.core.validation import check_finite, check_inexact


def affine(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    feature_axes: tuple[int, ...],
    dtype: DTypeLike | None,
    scale_offset: float = 0.0,
) -> tuple[Array, Array, jnp.dtype]:
    """Returns scale and bias with the rank of x, and the dtype of the result.

    Args:
      x: Input.
      scale: Feature shape, or the rank of x with 1 where shared; 1 where None.
      bias: Likewise; 0 where None.
      feature_axes: Canonical feature axes.
      dtype: Dtype that the user asks for, or None for what the three promote to.
      scale_offset: Is added to a given scale, in float32 or wider.
    """
    scale_offset = check_finite(scale_offset, "scale_offset")
    if scale is not None:
        scale = align(check_inexact(scale, "scale"), x, feature_axes, "scale")
    if bias is not None:
        bias = align(check_inexact(bias, "bias"), x, feature_axes, "bias")
    result = output_dtype(dtype, x, scale, bias)
    one = (1,) * x.ndim
    if scale is None:
        scale = jnp.ones(one, x.dtype)
    elif scale_offset:
        wide = accumulation_dtype(scale.dtype, real_dtype(x.dtype))
        scale = scale.astype(wide) + scale_offset
    bias = jnp.zeros(one, x.dtype) if bias is None else bias
    return scale, bias, result
