"""Layers that normalize segments, described once: graphs, or sequences in one row."""

from collections.abc import Sequence
from typing import Any

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

import jaxnorm
from jaxnorm._core.axes import Axes
from jaxnorm._core.collectives import Groups
from jaxnorm._core.dtypes import check_inexact
from jaxnorm._layers.fields import Arrays, description
from jaxnorm._layers.sample import MomentLayer


class SegmentLayer(MomentLayer):
    """A layer whose call is told which segment each position is in.

    Attributes:
      axis_name: Mapped axis or axes over which positions are divided. Under `jax.jit` a
        sharded input needs none.
    """

    def _convert(self, x: Any) -> Array:
        return check_inexact(x, "x")


@description
class GraphNorm(SegmentLayer):
    """Graph norm.

    Attributes:
      epsilon: Added to the mean square; at least 0. PyTorch Geometric's is 1e-5.
      use_mean_scale: Whether a learned share of the mean is subtracted. False: all of
        it, which makes the layer an instance norm of segments.
      mean_scale_init: Initializer of that share.
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_mean_scale: bool = True
    use_bias: bool = True
    use_scale: bool = True
    mean_scale_init: Initializer = initializers.ones
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer | None = None
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    _optional = ("mean_scale", "scale", "bias")

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        return jaxnorm.graph_norm(x, **params, **options)


@description
class SegmentLayerNorm(SegmentLayer):
    """Layer norm of segments.

    Attributes:
      reduction_axes: The axis or axes to average over, beside the positions.
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
    scale_offset: float = 0.0

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        return jaxnorm.segment_layer_norm(
            x, **params, reduction_axes=self.reduction_axes, **options
        )


@description
class SegmentRMSNorm(SegmentLayer):
    """Root mean square norm of segments.

    Attributes:
      epsilon: Added to the mean square; at least 0.
      reduction_axes: The axis or axes to average over, beside the positions.
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
    scale_offset: float = 0.0

    _optional = ("scale",)

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        return jaxnorm.segment_rms_norm(
            x, **params, reduction_axes=self.reduction_axes, **options
        )
