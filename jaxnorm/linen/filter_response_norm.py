"""Filter response normalization as a Flax Linen module."""

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


class FilterResponseNorm(nn.Module):
    """Filter response normalization with its thresholded linear unit (TLU).

    It takes the place of a normalization and of the activation after it. Parameters are
    `scale`, `bias`, `threshold` and, where asked for, `learned_epsilon`, each of the
    feature shape. The mathematics is that of `jaxnorm.filter_response_norm`.

    Attributes:
      epsilon: Added to the mean square; at least 0.
      dtype: Dtype of the result; by default what input, scale and bias promote to.
      param_dtype: Dtype of the parameters.
      use_bias: Whether a learned bias is added.
      use_scale: Whether to multiply by a learned scale.
      use_threshold: Whether the TLU follows. False for another activation.
      use_learned_epsilon: Whether the absolute value of a learned one is added to
        epsilon, for layers without space, or with little.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scale.
      threshold_init: Initializer of the threshold; by default the TLU starts as a ReLU.
      learned_epsilon_init: Initializer of the learned epsilon.
      feature_axes: The axis or axes that keep their own statistics.
      reduction_axes: The axes of space; by default all but the first, which is the
        batch, and those of the features.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[[3.0], [-3.0]]])  # one example, two positions
      >>> norm = jaxnorm.linen.FilterResponseNorm()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(3)
      Array([[[1.],
              [0.]]], dtype=float32)
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    use_threshold: bool = True
    use_learned_epsilon: bool = False
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    threshold_init: Initializer = nn.initializers.zeros
    learned_epsilon_init: Initializer = nn.initializers.constant(1e-4)
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
          mask: Which elements count, or their weights; see `jaxnorm.layer_norm`.

        Returns:
          The normalized and thresholded input, of the shape of x.
        """
        x = check_inexact(x, "x")
        features = canonical_axes(self.feature_axes, x.ndim)
        feature_shape = sizes(x.shape, features)
        scale, bias = affine_params(self, feature_shape)
        threshold = learned_epsilon = None
        if self.use_threshold:
            threshold = self.param(
                "threshold", self.threshold_init, feature_shape, self.param_dtype
            )
        if self.use_learned_epsilon:
            learned_epsilon = self.param(
                "learned_epsilon",
                self.learned_epsilon_init,
                feature_shape,
                self.param_dtype,
            )
        return jaxnorm.filter_response_norm(
            x,
            scale,
            bias,
            threshold,
            epsilon=self.epsilon,
            learned_epsilon=learned_epsilon,
            reduction_axes=self.reduction_axes,
            feature_axes=features,
            mask=mask,
            dtype=self.dtype,
        )
