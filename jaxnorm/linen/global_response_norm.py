"""Global response normalization as a Flax Linen module."""

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

import jaxnorm
from jaxnorm.core.axes import Axes, canonical_axes, sizes
from jaxnorm.core.validation import check_inexact
from jaxnorm.linen.affine import affine_params


class GlobalResponseNorm(nn.Module):
    """Global response normalization: the features of each example compete.

    Parameters are `scale` and `bias`, of the feature shape. They start at 0, where the
    layer is the identity. The mathematics is that of `jaxnorm.global_response_norm`.

    Attributes:
      epsilon: Added to the mean of the norms; at least 0.
      dtype: Dtype of the result; by default what the input and parameters promote to.
      param_dtype: Dtype of scale and bias.
      use_bias: Whether a learned bias is added.
      use_scale: Whether to multiply by a learned scale; 1 without.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scale.
      feature_axes: The axis or axes of the features.
      reduction_axes: The axes of space; by default all but the first, which is the
        batch, and those of the features.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[[3.0, 1.0], [4.0, 0.0]]])  # one example, two positions
      >>> norm = jaxnorm.linen.GlobalResponseNorm()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x)
      Array([[[3., 1.],
              [4., 0.]]], dtype=float32)
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.zeros
    feature_axes: Axes = -1
    reduction_axes: Axes | None = None

    @nn.compact
    def __call__(
        self,
        x: Inexact[Array, "batch ..."],
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of shape (batch, ...).
          mask: Which elements count, or their weights; see
            `jaxnorm.global_response_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        x = check_inexact(x, "x")
        features = canonical_axes(self.feature_axes, x.ndim)
        scale, bias = affine_params(self, sizes(x.shape, features))
        return jaxnorm.global_response_norm(
            x,
            scale,
            bias,
            epsilon=self.epsilon,
            reduction_axes=self.reduction_axes,
            feature_axes=features,
            mask=mask,
            dtype=self.dtype,
        )
