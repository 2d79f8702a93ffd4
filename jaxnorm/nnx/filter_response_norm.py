"""Filter response normalization as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from flax.typing import Initializer
from jax import Array
from jaxtyping import Inexact, Shaped

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.validation import check_inexact
from jaxnorm.nnx.affine import AffineModule, AffineOptions, hashable, read

_SMALL = nnx.initializers.constant(1e-4)


class FilterResponseNorm(AffineModule):
    """Filter response normalization with its thresholded linear unit (TLU).

    It takes the place of a normalization and of the activation after it. The
    mathematics is that of `jaxnorm.filter_response_norm`.

    Attributes are those of `AffineModule` and, with the same meaning, of
    `jaxnorm.linen.FilterResponseNorm`, and:

    Attributes:
      threshold: `nnx.Param` of the feature shape, or None.
      learned_epsilon: Likewise.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.FilterResponseNorm(1, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[[3.0], [-3.0]]])).round(3)
      Array([[[1.],
              [0.]]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        epsilon: float = 1e-6,
        use_threshold: bool = True,
        use_learned_epsilon: bool = False,
        threshold_init: Initializer = nnx.initializers.zeros,
        learned_epsilon_init: Initializer = _SMALL,
        reduction_axes: Axes | None = None,
        feature_axes: Axes = -1,
        rngs: nnx.Rngs,
        **affine: Unpack[AffineOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **affine)
        self.epsilon = epsilon
        self.use_threshold = use_threshold
        self.use_learned_epsilon = use_learned_epsilon
        self.reduction_axes = hashable(reduction_axes)
        self.feature_axes = hashable(feature_axes)
        self.threshold: nnx.Param[Array] | None = nnx.data(None)
        self.learned_epsilon: nnx.Param[Array] | None = nnx.data(None)
        if use_threshold:
            self.threshold = self._draw(threshold_init, rngs)
        if use_learned_epsilon:
            self.learned_epsilon = self._draw(learned_epsilon_init, rngs)

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
        x, scale, bias = self._promote(check_inexact(x, "x"))
        return jaxnorm.filter_response_norm(
            x,
            scale,
            bias,
            read(self.threshold),
            epsilon=self.epsilon,
            learned_epsilon=read(self.learned_epsilon),
            reduction_axes=self.reduction_axes,
            feature_axes=self.feature_axes,
            mask=mask,
            dtype=self.dtype,
        )
