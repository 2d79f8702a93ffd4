"""Dynamic tanh as a Flax Linen module."""

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact

import jaxnorm
from jaxnorm.core.axes import Axes, canonical_axes, sizes
from jaxnorm.core.validation import check_inexact
from jaxnorm.linen.affine import affine_params


class DynamicTanh(nn.Module):
    """Dynamic tanh, which takes the place of layer norm without statistics.

    Parameters are `alpha`, a scalar, and `scale` and `bias`, of the feature shape. The
    mathematics is that of `jaxnorm.dynamic_tanh`.

    Attributes:
      dtype: Dtype of the result; by default what input, scale and bias promote to.
      param_dtype: Dtype of the parameters.
      use_bias: Whether a learned bias is added.
      use_scale: Whether to multiply by a learned scale.
      alpha_init: Initializer of the slope alpha.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scale.
      feature_axes: The axis or axes of scale and bias.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[0.0, 2.0], [-2.0, 100.0]])
      >>> norm = jaxnorm.linen.DynamicTanh()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(3)
      Array([[ 0.   ,  0.762],
             [-0.762,  1.   ]], dtype=float32)
    """

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    alpha_init: Initializer = nn.initializers.constant(0.5)
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    feature_axes: Axes = -1

    @nn.compact
    def __call__(self, x: Inexact[Array, "..."]) -> Array:
        """Squashes x.

        Args:
          x: Input of any shape.

        Returns:
          The squashed input, of the shape of x.
        """
        x = check_inexact(x, "x")
        features = canonical_axes(self.feature_axes, x.ndim)
        alpha = self.param("alpha", self.alpha_init, (), self.param_dtype)
        scale, bias = affine_params(self, sizes(x.shape, features))
        return jaxnorm.dynamic_tanh(
            x, alpha, scale, bias, feature_axes=features, dtype=self.dtype
        )
