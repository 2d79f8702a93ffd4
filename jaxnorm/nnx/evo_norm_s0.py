"""EvoNorm-S0 as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from flax.typing import Initializer
from jax import Array
from jaxtyping import Inexact, Shaped

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.validation import check_inexact
from jaxnorm.nnx.affine import AffineModule, AffineOptions, hashable, read


class EvoNormS0(AffineModule):
    """EvoNorm-S0: a gate, divided by the standard deviation of a group of features.

    It takes the place of a normalization and of the activation after it. The
    mathematics is that of `jaxnorm.evo_norm_s0`.

    Attributes are those of `AffineModule` and, with the same meaning, of
    `jaxnorm.linen.EvoNormS0`, and:

    Attributes:
      v: `nnx.Param` of the feature shape, the slope of the gate; from `v_init`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.EvoNormS0(4, num_groups=2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[1.0, 3.0, -1.0, -3.0]])).round(1)
      Array([[ 0.7,  2.9, -0.3, -0.1]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        *,
        num_groups: int = 32,
        epsilon: float = 1e-5,
        v_init: Initializer = nnx.initializers.ones,
        reduction_axes: Axes | None = None,
        feature_axes: int = -1,
        rngs: nnx.Rngs,
        **affine: Unpack[AffineOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **affine)
        self.num_groups = num_groups
        self.epsilon = epsilon
        self.v = self._draw(v_init, rngs)
        self.reduction_axes = hashable(reduction_axes)
        self.feature_axes = feature_axes

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
        x, scale, bias = self._promote(check_inexact(x, "x"))
        return jaxnorm.evo_norm_s0(
            x,
            read(self.v),
            scale,
            bias,
            num_groups=self.num_groups,
            epsilon=self.epsilon,
            reduction_axes=self.reduction_axes,
            feature_axes=self.feature_axes,
            mask=mask,
            dtype=self.dtype,
        )
