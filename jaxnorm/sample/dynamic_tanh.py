"""Dynamic tanh, which takes the place of layer norm without statistics."""

from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact

from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.arrays.dtypes import check_inexact
from jaxnorm.sample.pointwise import apply_curve


def dynamic_tanh(
    x: Inexact[Array, "..."],
    alpha: Inexact[Array, ""] | Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None,
    bias: Inexact[Array, "..."] | None,
    *,
    feature_axes: Axes = -1,
    dtype: DTypeLike | None = None,
) -> Array:
    """Applies tanh to each element, in place of layer norm; without statistics.

    With a learned slope::

        y = tanh(alpha * x) * scale + bias

    computed in float32 or wider. The backward pass keeps x, and computes the tanh
    again.

    Args:
      x: Input of any shape; floating or complex.
      alpha: Real; a scalar, or the shapes of scale. Its initial value in the paper is
        0.5, and less for wide language models.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared;
        1 where None.
      bias: Same shapes as scale; 0 where None.
      feature_axes: The axis or axes of the parameters.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If an array holds integers, alpha is complex, or `dtype` is real for
        complex input.
      ValueError: If a shape or an axis does not fit.

    Reference:
      Zhu et al., 2025, Transformers without Normalization, section 4 and algorithm 1
      (https://arxiv.org/abs/2503.10622).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[0.0, 2.0], [-2.0, 100.0]])
      >>> jaxnorm.dynamic_tanh(x, jnp.array(0.5), jnp.ones(2), jnp.zeros(2)).round(3)
      Array([[ 0.   ,  0.762],
             [-0.762,  1.   ]], dtype=float32)
    """
    return apply_curve(
        _tanh,
        check_inexact(x, "x"),
        {"alpha": alpha},
        scale,
        bias,
        feature_axes=feature_axes,
        dtype=dtype,
    )


def _tanh(x: Array, alpha: Array) -> Array:
    return jnp.tanh(alpha * x)
