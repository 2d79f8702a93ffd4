"""EvoNorm-S0 as a Flax Linen module."""

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


class EvoNormS0(nn.Module):
    """EvoNorm-S0: a gate, divided by the standard deviation of a group of features.

    It takes the place of a normalization and of the activation after it. Parameters are
    `v`, `scale` and `bias`, of the feature shape. The mathematics is that of
    `jaxnorm.evo_norm_s0`.

    Attributes:
      num_groups: Into how many groups to cut the features; divides their number.
      epsilon: Added to the variance; at least 0.
      dtype: Dtype of the result; by default what input, scale and bias promote to.
      param_dtype: Dtype of the parameters.
      use_bias: Whether a learned bias is added.
      use_scale: Whether to multiply by a learned scale.
      v_init: Initializer of v, the slope of the gate.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scale.
      feature_axes: The one axis of the features.
      reduction_axes: The axes to average over, among them that of the features; by
        default all but the first, which is the batch.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0, 3.0, -1.0, -3.0]])
      >>> norm = jaxnorm.linen.EvoNormS0(num_groups=2)
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(1)
      Array([[ 0.7,  2.9, -0.3, -0.1]], dtype=float32)
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    v_init: Initializer = nn.initializers.ones
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    feature_axes: Axes = -1
    reduction_axes: Axes | None = None

    @nn.compact
    def __call__(
        self,
        x: Inexact[Array, "batch ..."],
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes and gates x.

        Args:
          x: Input of shape (batch, ...).
          mask: Which elements count, or their weights; see `jaxnorm.layer_norm`.

        Returns:
          The normalized and gated input, of the shape of x.
        """
        x = check_inexact(x, "x")
        features = canonical_axes(self.feature_axes, x.ndim)
        feature_shape = sizes(x.shape, features)
        v = self.param("v", self.v_init, feature_shape, self.param_dtype)
        scale, bias = affine_params(self, feature_shape)
        return jaxnorm.evo_norm_s0(
            x,
            v,
            scale,
            bias,
            num_groups=self.num_groups,
            epsilon=self.epsilon,
            reduction_axes=self.reduction_axes,
            feature_axes=features,
            mask=mask,
            dtype=self.dtype,
        )
