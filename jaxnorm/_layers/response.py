"""Layers that take the place of a normalization and its activation, described once."""

from typing import Any

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

import jaxnorm
from jaxnorm._core.arguments.axes import Axes
from jaxnorm._layers.fields import description
from jaxnorm._layers.initializers import MadeInitializer
from jaxnorm._layers.sample import SampleLayer, warning_of_single_values


class ResponseLayer(SampleLayer):
    """A layer that takes the place of a normalization, and needs floating input.

    Attributes:
      epsilon: Added to the divisor; at least 0.
      feature_axes: The axis or axes of the features.
      reduction_axes: The spatial axes; by default all but the first, which is the
        batch, and the feature axes.
    """

    epsilon: float
    feature_axes: Axes
    reduction_axes: Axes | None

    _takes_integers = False

    def _options(self, x: Array, mask: Array | None) -> dict[str, Any]:
        return {
            "epsilon": self.epsilon,
            "feature_axes": self._feature_axes(x),
            "reduction_axes": self.reduction_axes,
            "mask": mask,
            "dtype": self.dtype,
        }


@description
class FilterResponseNorm(ResponseLayer):
    """Filter response norm with its thresholded linear unit (TLU).

    Attributes:
      epsilon: Added to the mean square; at least 0.
      use_threshold: Whether to apply the TLU. False for another activation.
      use_learned_epsilon: Whether to add the absolute value of a learned parameter to
        epsilon, for layers with few spatial positions or none.
      threshold_init: Initializer of the threshold; by default the TLU starts as a ReLU.
      learned_epsilon_init: Initializer of the learned epsilon.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    use_threshold: bool = True
    use_learned_epsilon: bool = False
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer = initializers.ones
    threshold_init: Initializer = initializers.zeros
    learned_epsilon_init: Initializer = MadeInitializer(initializers.constant, (1e-4,))
    feature_axes: Axes = -1
    reduction_axes: Axes | None = None

    _function = staticmethod(jaxnorm.filter_response_norm)
    _optional = ("scale", "bias", "threshold", "learned_epsilon")


@description
class GlobalResponseNorm(ResponseLayer):
    """Global response norm.

    Attributes:
      epsilon: Added to the mean of the norms; at least 0.
      use_scale: Whether to multiply by a learned scale; 1 without.
      scale_init: Initializer of the scale; 0, where the layer is the identity.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer = initializers.zeros
    feature_axes: Axes = -1
    reduction_axes: Axes | None = None

    _function = staticmethod(jaxnorm.global_response_norm)


@description
class EvoNormS0(ResponseLayer):
    """EvoNorm-S0.

    Attributes:
      num_groups: Number of groups of features; divides the number of features.
      epsilon: Added to the variance; at least 0.
      v_init: Initializer of v, the slope of the gate.
      feature_axes: The one axis of the features.
      reduction_axes: The axes to average over, including the feature axis; by default
        all but the first, which is the batch.
    """

    num_groups: int = 32
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    v_init: Initializer = initializers.ones
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer = initializers.ones
    feature_axes: Axes = -1
    reduction_axes: Axes | None = None

    _function = warning_of_single_values(jaxnorm.evo_norm_s0)
    _own_options = ("num_groups",)
    _required = ("v",)
