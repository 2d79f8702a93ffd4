"""Global response normalization as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from jax import Array
from jaxtyping import Inexact, Shaped

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.validation import check_inexact
from jaxnorm.nnx.affine import AffineModule, AffineOptions, hashable


class GlobalResponseNorm(AffineModule):
    """Global response normalization: the features of each example compete.

    Scale and bias start at 0, where the layer is the identity. The mathematics is that
    of `jaxnorm.global_response_norm`.

    Attributes are those of `AffineModule` and, with the same meaning, of
    `jaxnorm.linen.GlobalResponseNorm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.GlobalResponseNorm(2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[[3.0, 1.0], [4.0, 0.0]]]))
      Array([[[3., 1.],
              [4., 0.]]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        epsilon: float = 1e-6,
        reduction_axes: Axes | None = None,
        feature_axes: Axes = -1,
        rngs: nnx.Rngs,
        **affine: Unpack[AffineOptions],
    ) -> None:
        affine.setdefault("scale_init", nnx.initializers.zeros)
        super().__init__(num_features, rngs=rngs, **affine)
        self.epsilon = epsilon
        self.reduction_axes = hashable(reduction_axes)
        self.feature_axes = hashable(feature_axes)

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
        x, scale, bias = self._promote(check_inexact(x, "x"))
        return jaxnorm.global_response_norm(
            x,
            scale,
            bias,
            epsilon=self.epsilon,
            reduction_axes=self.reduction_axes,
            feature_axes=self.feature_axes,
            mask=mask,
            dtype=self.dtype,
        )
