"""Layers that normalize each example by itself, described once."""

from collections.abc import Sequence
from typing import Any, Literal

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

import jaxnorm
from jaxnorm._core.axes import Axes
from jaxnorm._core.collectives import Groups
from jaxnorm._core.dtypes import check_inexact
from jaxnorm._layers.fields import (
    Arrays,
    Layer,
    description,
)
from jaxnorm.sample.gated_rms_norm import Activation

# Flax's modules erase it without a word.
_SINGLE_VALUE: Literal["warn"] = "warn"


class SampleLayer(Layer):
    """A layer without state, and the options of its call."""

    def _options(self, x: Array, mask: Array | None) -> dict[str, Any]:
        """Returns the keyword options of the function that are not of one class."""
        raise NotImplementedError

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        """Normalizes x.

        Args:
          x: Input.
          params: The parameters, by the names that `_parameters` has.
          options: What `_options` returns.
        """
        raise NotImplementedError


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
        return {
            "axis_name": self.axis_name,
            "axis_index_groups": self.axis_index_groups,
        }


class MomentLayer(MappedLayer):
    """A layer that normalizes each example by its moments.

    Attributes:
      epsilon: Added to the variance; at least 0.
      feature_axes: The axis or axes of the parameters.
      scale_offset: Is added to the stored scale, in float32 or wider: 1 for models
        that store the distance from 1, so that weight decay pulls towards the identity.
      scale_init: Initializer of the stored scale. By default the layer starts at a
        factor of 1: from ones, or from zeros if `scale_offset` is 1.
      use_fast_variance: Without effect: the variance is exact however large the mean,
        which that of Flax's one pass is not.
      force_float32_reductions: Without effect: statistics are always computed in
        float32 or wider.
    """

    epsilon: float
    scale_init: Initializer | None
    feature_axes: Axes
    scale_offset: float

    def _initializer(self, name: str) -> Initializer:
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
class LayerNorm(MomentLayer):
    """Layer norm.

    Attributes:
      reduction_axes: The axis or axes to average over.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer | None = None
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    scale_offset: float = 0.0

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        return jaxnorm.layer_norm(
            x,
            **params,
            reduction_axes=self.reduction_axes,
            allow_single_value=_SINGLE_VALUE,
            **options,
        )


@description
class RMSNorm(MomentLayer):
    """Root mean square layer norm.

    Attributes:
      epsilon: Added to the mean square; at least 0.
      reduction_axes: The axis or axes to average over.
      round_before_scale: Whether the normalized input is rounded to its dtype before
        the product with scale, as in Hugging Face's Llama.
      use_fast_variance: Without effect: without a mean there is but one way.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    scale_init: Initializer | None = None
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    scale_offset: float = 0.0
    round_before_scale: bool = False

    _optional = ("scale",)

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        return jaxnorm.rms_norm(
            x,
            **params,
            reduction_axes=self.reduction_axes,
            round_before_scale=self.round_before_scale,
            **options,
        )


@description
class GatedRMSNorm(MomentLayer):
    """Root mean square norm with a gate.

    Attributes:
      epsilon: Added to the mean square; at least 0.
      dtype: Dtype of the result; by default what input, gate and scale promote to.
      gate_first: Whether the input is gated before it is normalized (Mamba 2, Zamba2),
        and not after (gated DeltaNet, Qwen3-Next).
      activation: Of the gate: "silu" or "sigmoid".
      num_groups: Into how many groups to cut the features; with neither this nor
        `group_size`, they are one.
      group_size: How many features make a group.
      reduction_axes: The axis or axes to average over; with groups, among them that of
        the features.
      feature_axes: The axis or axes of scale; with groups, the one feature axis.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    scale_init: Initializer | None = None
    gate_first: bool = False
    activation: Activation = "silu"
    num_groups: int | None = None
    group_size: int | None = None
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    _optional = ("scale",)

    def _convert(self, x: Any) -> Array:
        return check_inexact(x, "x")

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        return jaxnorm.gated_rms_norm(
            x,
            **params,
            gate_first=self.gate_first,
            activation=self.activation,
            num_groups=self.num_groups,
            group_size=self.group_size,
            reduction_axes=self.reduction_axes,
            **options,
        )


@description
class GroupNorm(MomentLayer):
    """Group norm.

    Attributes:
      num_groups: Into how many groups to cut the features; None if `group_size` is
        given.
      group_size: How many features make a group; needs `num_groups=None`.
      reduction_axes: The axes to average over, among them that of the features; by
        default all but the first, which is the batch.
      feature_axes: The one axis of the features.
    """

    num_groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer | None = None
    reduction_axes: Axes | None = None
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    feature_axes: Axes = -1
    scale_offset: float = 0.0

    def _grouping(self) -> dict[str, Any]:
        return {"num_groups": self.num_groups, "group_size": self.group_size}

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        reduction_axes = self.reduction_axes
        if reduction_axes is None and x.ndim == 1:
            reduction_axes = 0  # Flax takes a single example without an axis for it
        return jaxnorm.group_norm(
            x,
            **params,
            reduction_axes=reduction_axes,
            allow_single_value=_SINGLE_VALUE,
            **self._grouping(),
            **options,
        )


@description
class CausalGroupNorm(MomentLayer):
    """Causal group norm.

    The moments of a stream are passed in and out, as the carry of a recurrent cell is,
    and are no variables: so a model serves any number of streams.

    Attributes:
      time_axis: The axis of the steps.
      num_groups: Into how many groups to cut the features; None if `group_size` is
        given. One makes it the cumulative layer norm of speech models.
      group_size: How many features make a group; needs `num_groups=None`.
      reduction_axes: The axes to average over at each step, among them that of the
        features; by default all but the time and the first, which is the batch.
      feature_axes: The one axis of the features.
    """

    time_axis: int = 1
    num_groups: int | None = 1
    group_size: int | None = None
    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer | None = None
    reduction_axes: Axes | None = None
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    def _convert(self, x: Any) -> Array:
        return check_inexact(x, "x")

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Any:
        return jaxnorm.causal_group_norm(
            x,
            **params,
            time_axis=self.time_axis,
            num_groups=self.num_groups,
            group_size=self.group_size,
            reduction_axes=self.reduction_axes,
            **options,
        )


@description
class InstanceNorm(MomentLayer):
    """Instance norm.

    Attributes:
      feature_axes: The axis or axes that keep their own statistics; not the first,
        which is the batch, without `reduction_axes`.
      reduction_axes: The axes of space; by default all but the first, which is the
        batch, and those of the features.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer | None = None
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    reduction_axes: Axes | None = None
    scale_offset: float = 0.0

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        if self.reduction_axes is None and 0 in self._feature_axes(x):
            # begins in the words of Flax, which callers may look for
            raise ValueError(
                "The channel axes cannot include the leading dimension as this is "
                f"assumed to be the batch axis. Got feature_axes={self.feature_axes}. "
                "For a single example add one: x[None]."
            )
        return jaxnorm.instance_norm(
            x,
            **params,
            reduction_axes=self.reduction_axes,
            allow_single_value=_SINGLE_VALUE,
            **options,
        )


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

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Any:
        return jaxnorm.reversible_instance_norm(
            x,
            **params,
            time_axis=self.time_axis,
            allow_single_value=_SINGLE_VALUE,
            **options,
        )


@description
class UnitNorm(MappedLayer):
    """Vectors of length 1.

    Attributes:
      axes: The axis or axes along which the vectors lie.
      epsilon: Added to the squared length; at least 0.
      dtype: Dtype of the result; by default that of the input.
      axis_name: Mapped axis or axes over which the vectors are divided. Under `jax.jit`
        a sharded input needs none.
    """

    axes: Axes = -1
    epsilon: float = 0.0
    dtype: DTypeLike | None = None
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None

    _axes_field = "axes"
    _optional = ()

    def _convert(self, x: Any) -> Array:
        return check_inexact(x, "x")

    def _options(self, x: Array, mask: Array | None) -> dict[str, Any]:
        return self._mapped_axes() | {
            "axes": self.axes,
            "epsilon": self.epsilon,
            "dtype": self.dtype,
        }

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        return jaxnorm.unit_norm(x, **options)
