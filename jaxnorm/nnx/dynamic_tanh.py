"""Dynamic tanh as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from flax.typing import Initializer
from jax import Array
from jaxtyping import Inexact

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.validation import check_inexact
from jaxnorm.nnx.affine import AffineModule, AffineOptions, hashable, read

_HALF = nnx.initializers.constant(0.5)


class DynamicTanh(AffineModule):
    """Dynamic tanh, which takes the place of layer norm without statistics.

    The mathematics is that of `jaxnorm.dynamic_tanh`.

    Attributes are those of `AffineModule`, and:

    Attributes:
      alpha: The slope, a scalar `nnx.Param`; from `alpha_init`, by default 0.5.
      feature_axes: The axis or axes of scale and bias.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.DynamicTanh(2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[0.0, 2.0], [-2.0, 100.0]])).round(3)
      Array([[ 0.   ,  0.762],
             [-0.762,  1.   ]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        alpha_init: Initializer = _HALF,
        feature_axes: Axes = -1,
        rngs: nnx.Rngs,
        **affine: Unpack[AffineOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **affine)
        self.alpha = self._draw(alpha_init, rngs, ())
        self.feature_axes = hashable(feature_axes)

    def __call__(
        self,
        x: Inexact[Array, "..."],
    ) -> Array:
        """Squashes x.

        Args:
          x: Input of any shape.

        Returns:
          The squashed input, of the shape of x.
        """
        x, scale, bias = self._promote(check_inexact(x, "x"))
        return jaxnorm.dynamic_tanh(
            x,
            read(self.alpha),
            scale,
            bias,
            feature_axes=self.feature_axes,
            dtype=self.dtype,
        )
