"""Weight standardization as a Flax Linen wrapper of a layer."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm._core.arguments.axes import Axes, canonical_axes, sizes
from jaxnorm.linen.wrapping import call_with_params, is_selected
from jaxnorm.weight.standardize_weight import standardize_weight

__all__ = ["WeightStandardization"]


class WeightStandardization(nn.Module):
    """Weight standardization of the wrapped layer, plain or scaled.

    It computes `jaxnorm.standardize_weight`. Without a gain, the only variables are
    those of the layer, whose kernel is stored unchanged, so checkpoints of the bare
    layer load. A gain is in `params`, for instance as `Conv_0/kernel/gain`.

    Attributes:
      layer_instance: The layer to wrap.
      epsilon: Added to the variance; at least 0. No effect with a gain.
      dtype: Dtype of the standardized parameters; by default what parameter and gain
        promote to.
      param_dtype: Dtype of the gain.
      use_gain: Whether to use scaled weight standardization, with a learned gain for
        each output unit.
      gain_init: Initializer of the gain.
      feature_axes: The axis or axes of the output units.
      variable_filter: Strings; parameters whose names contain one of them are
        standardized. None or empty selects all parameters.

    Example:
      >>> import jax, jax.numpy as jnp, flax.linen as nn, jaxnorm.linen
      >>> x = jnp.ones((2, 8, 8, 3))
      >>> layer = jaxnorm.linen.WeightStandardization(nn.Conv(4, (3, 3)))
      >>> y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), x)
      >>> y.shape
      (2, 8, 8, 4)
    """

    layer_instance: nn.Module
    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_gain: bool = False
    gain_init: Initializer = nn.initializers.ones
    feature_axes: Axes = -1
    variable_filter: Iterable[str] | None = dataclasses.field(
        default_factory=lambda: {"kernel"}
    )

    @nn.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the wrapped layer with standardized parameters.

        Args:
          *args: Arguments of the wrapped layer.
          **kwargs: Keyword arguments of the wrapped layer.

        Returns:
          The output of the wrapped layer.
        """

        def change(name: str, value: Array) -> Array:
            if not is_selected(name, self.variable_filter):
                return value
            features = canonical_axes(self.feature_axes, value.ndim)
            gain = None
            if self.use_gain:
                shape = sizes(value.shape, features)
                gain = self.param(
                    f"{name}/gain", self.gain_init, shape, self.param_dtype
                )
            return standardize_weight(
                value,
                feature_axes=features,
                epsilon=self.epsilon,
                gain=None if gain is None else jnp.asarray(gain),
                allow_single_value="warn",
                dtype=self.dtype,
            )

        return call_with_params(
            self.layer_instance, change, args, kwargs, store_changed=False
        )
