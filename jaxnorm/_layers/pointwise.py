"""Layers without statistics, which apply a curve to each element, described once."""

from typing import Any, ClassVar

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Inexact

import jaxnorm
from jaxnorm._core.arguments.axes import Axes
from jaxnorm._layers.fields import description
from jaxnorm._layers.initializers import MadeInitializer
from jaxnorm._layers.sample import SampleLayer


class PointwiseLayer(SampleLayer):
    """A layer with scalar parameters of a curve, and a scale and a bias.

    Attributes:
      alpha_init: Initializer of alpha, the slope, a scalar.
      feature_axes: The axis or axes of scale and bias.
    """

    feature_axes: Axes

    _required: ClassVar[tuple[str, ...]] = ("alpha",)
    _takes_integers = False

    def _shape(self, name: str, features: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of a parameter: () for the parameters of the curve."""
        return () if name in self._required else features

    def __call__(self, x: Inexact[Array, "..."]) -> Array:  # type: ignore[override]
        """Applies a curve to each element of x, then scale and bias.

        Args:
          x: Input of any shape.

        Returns:
          The result, of the shape of x.
        """
        return self._normalize(x)

    def _options(self, x: Array, mask: Array | None) -> dict[str, Any]:
        return {"feature_axes": self._feature_axes(x), "dtype": self.dtype}


@description
class DynamicTanh(PointwiseLayer):
    """Dynamic tanh."""

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    alpha_init: Initializer = MadeInitializer(initializers.constant, (0.5,))
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer = initializers.ones
    feature_axes: Axes = -1

    _function = staticmethod(jaxnorm.dynamic_tanh)


@description
class DynamicErf(PointwiseLayer):
    """Dynamic erf.

    Attributes:
      shift_init: Initializer of the shift, a scalar.
    """

    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    alpha_init: Initializer = MadeInitializer(initializers.constant, (0.5,))
    shift_init: Initializer = initializers.zeros
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer = initializers.ones
    feature_axes: Axes = -1

    _function = staticmethod(jaxnorm.dynamic_erf)
    _required = ("alpha", "shift")
