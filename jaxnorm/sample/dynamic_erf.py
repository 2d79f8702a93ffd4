"""Dynamic erf (Derf), which takes the place of layer norm without statistics."""

from jax import Array, lax
from jax.typing import DTypeLike
from jaxtyping import Inexact

from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.arrays.dtypes import check_inexact, check_real
from jaxnorm.sample.pointwise import apply_curve


def dynamic_erf(
    x: Inexact[Array, "..."],
    alpha: Inexact[Array, ""] | Inexact[Array, "..."],
    shift: Inexact[Array, ""] | Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None,
    bias: Inexact[Array, "..."] | None,
    *,
    feature_axes: Axes = -1,
    dtype: DTypeLike | None = None,
) -> Array:
    """Applies the error function to each element, in place of layer norm.

    Like `jaxnorm.dynamic_tanh`, with another function and a learned shift::

        y = erf(alpha * x + shift) * scale + bias

    computed in float32 or wider. The backward pass keeps x, and computes the error
    function again.

    Args:
      x: Input of any shape; floating.
      alpha: Real; a scalar, or the shapes of scale. Its initial value in the paper is
        0.5.
      shift: Same shapes as alpha. Its initial value in the paper is 0.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared;
        1 where None.
      bias: Same shapes as scale; 0 where None.
      feature_axes: The axis or axes of the parameters.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If an array holds integers, or x, alpha or shift is complex.
      ValueError: If a shape or an axis does not fit.

    Reference:
      Chen et al., 2025, Stronger Normalization-Free Transformers
      (https://arxiv.org/abs/2512.10938).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[0.0, 2.0], [-2.0, 100.0]])
      >>> alpha, shift = jnp.array(0.5), jnp.array(0.0)
      >>> jaxnorm.dynamic_erf(x, alpha, shift, jnp.ones(2), jnp.zeros(2)).round(1)
      Array([[ 0. ,  0.8],
             [-0.8,  1. ]], dtype=float32)
    """
    x = check_inexact(x, "x")
    check_real("the error function is computed for real numbers", x=x)
    return apply_curve(
        _erf,
        x,
        {"alpha": alpha, "shift": shift},
        scale,
        bias,
        feature_axes=feature_axes,
        dtype=dtype,
    )


def _erf(x: Array, alpha: Array, shift: Array) -> Array:
    return lax.erf(alpha * x + shift)
