"""Layers that normalize each example by itself, described once."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Shaped

import jaxnorm
from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._layers.fields import Arrays, Layer, description


class SampleLayer(Layer):
    """A layer without state, its call, and the options of its function."""

    def __call__(
        self, x: Shaped[Array, "..."], *, mask: Shaped[Array, "..."] | None = None
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of any shape, usually (batch, ...).
          mask: Selects valid elements, or gives weights (Flax treats floating values as
            booleans); see `jaxnorm.layer_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        return self._normalize(x, mask)

    def _normalize(self, x: Any, mask: Array | None = None, **inputs: Any) -> Any:
        """Reads the parameters and calls `_forward`. Modules define it."""
        raise NotImplementedError

    def _options(self, x: Array, mask: Array | None) -> dict[str, Any]:
        """Returns the keyword options of the function besides `_own_options`."""
        raise NotImplementedError

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Any:
        """Normalizes x.

        Args:
          x: Input.
          params: The parameters, by the names that `_parameters` has.
          options: The options that `_options` returns.
        """
        return self._call(x, **params, **options)


class MappedLayer(SampleLayer):
    """A layer that may share its statistics between devices.

    Attributes:
      axis_name: Mapped axis or axes over which reduced axes are divided. Under
        `jax.jit` a sharded input needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`.
    """

    axis_name: str | Sequence[str] | None
    axis_index_groups: Groups | None

    def _mapped_axes(self) -> dict[str, Any]:
        """Returns the keyword options `axis_name` and `axis_index_groups`."""
        return {
            "axis_name": self.axis_name,
            "axis_index_groups": self.axis_index_groups,
        }


class MomentLayer(MappedLayer):
    """A layer that normalizes each example by its moments.

    Attributes:
      epsilon: Added to the variance; at least 0.
      feature_axes: The axis or axes of the parameters.
      scale_offset: Added to the stored scale, in float32 or wider: 1 for models that
        store the distance from 1, so that weight decay pulls towards the identity.
      scale_init: Initializer of the stored scale. By default the layer starts at a
        factor of 1: from ones, or from zeros if `scale_offset` is 1.
      use_fast_variance: Without effect: the variance is always exact, even for large
        means, unlike Flax's one-pass variance.
      force_float32_reductions: Without effect: statistics are always computed in
        float32 or wider.
    """

    epsilon: float
    scale_init: Initializer | None
    feature_axes: Axes
    scale_offset: float

    def _initializer(self, name: str) -> Initializer:
        """Returns the initializer of a parameter; by default the factor is 1."""
        if name == "scale" and self.scale_init is None:
            return initializers.constant(1 - self.scale_offset)
        return super()._initializer(name)

    def _options(self, x: Array, mask: Array | None) -> dict[str, Any]:
        return self._mapped_axes() | {
            "epsilon": self.epsilon,
            "feature_axes": self._feature_axes(x),
            "scale_offset": self.scale_offset,
            "mask": mask,
            "dtype": self.dtype,
        }


@description
class AffineLayer(MomentLayer):
    """A `MomentLayer` with a scale and a bias."""

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer | None = None


@description
class ScaleLayer(MomentLayer):
    """A `MomentLayer` without a bias, which does not subtract the mean.

    Attributes:
      epsilon: Added to the mean square; at least 0.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    scale_init: Initializer | None = None

    _optional = ("scale",)


def warning_of_single_values(function: Callable[..., Any]) -> Any:
    """Wraps a function for a layer: it warns, not raises, if a mean is of one value.

    Flax's modules then return the bias silently.
    """
    return staticmethod(functools.partial(function, allow_single_value="warn"))


@description
class LayerNorm(AffineLayer):
    """Layer norm.

    Attributes:
      reduction_axes: The axis or axes to average over.
    """

    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    scale_offset: float = 0.0

    _function = warning_of_single_values(jaxnorm.layer_norm)
    _own_options = ("reduction_axes",)


@description
class InstanceNorm(AffineLayer):
    """Instance norm.

    Attributes:
      feature_axes: The axis or axes that keep their own statistics; without
        `reduction_axes` not the first axis, which is the batch.
      reduction_axes: The spatial axes; by default all but the first, which is the
        batch, and the feature axes.
    """

    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    reduction_axes: Axes | None = None
    scale_offset: float = 0.0

    _function = warning_of_single_values(jaxnorm.instance_norm)
    _own_options = ("reduction_axes",)

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Any:
        """Normalizes x; refuses a batch axis among the feature axes, as Flax does."""
        if self.reduction_axes is None and 0 in self._feature_axes(x):
            # starts as Flax's message, which callers may match
            raise ValueError(
                "The channel axes cannot include the leading dimension as this is "
                f"assumed to be the batch axis. Got feature_axes={self.feature_axes}. "
                "For a single example add one: x[None]."
            )
        return super()._forward(x, params, options)


@description
class ReversibleInstanceNorm(MomentLayer):
    """Instance norm over time that can be undone.

    Attributes:
      time_axis: The axis that is averaged over.
      feature_axes: The axis or axes along which scale and bias lie.
      scale_init: Initializer of the stored scale. By default the layer starts at a
        factor of 1, which must not come near 0, since it is divided by.
    """

    time_axis: int = 1
    feature_axes: Axes = -1
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer | None = None
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    _function = warning_of_single_values(jaxnorm.reversible_instance_norm)
    _own_options = ("time_axis",)

    def __call__(  # type: ignore[override]
        self, x: Shaped[Array, "..."], *, mask: Shaped[Array, "..."] | None = None
    ) -> tuple[Array, jaxnorm.Denormalizer]:
        """Normalizes x.

        Args:
          x: Series, for instance of shape (batch, time, features). Integers are
            converted to float32.
          mask: Selects the values that exist, or gives weights; see
            `jaxnorm.layer_norm`.

        Returns:
          The normalized series, and the function that denormalizes forecasts.
        """
        return self._normalize(x, mask)
