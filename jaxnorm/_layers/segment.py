"""Layers that normalize segments, described once: graphs, or sequences in one row."""

from collections.abc import Sequence

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Inexact, Integer, Shaped

import jaxnorm
from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._layers.fields import description
from jaxnorm._layers.sample import AffineLayer, MomentLayer, ScaleLayer


class SegmentLayer(MomentLayer):
    """A layer whose call takes the segment of each position.

    Attributes:
      axis_name: Mapped axis or axes over which positions are divided. Under `jax.jit` a
        sharded input needs none.
    """

    _takes_integers = False

    def __call__(  # type: ignore[override]
        self,
        x: Inexact[Array, "..."],
        segment_ids: Integer[Array, "..."],
        num_segments: int,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes the segments of x.

        Args:
          x: Input of shape (positions, ..., features).
          segment_ids: The segment of each position, of the shape of leading axes of x;
            see `jaxnorm.segment_layer_norm`.
          num_segments: Number of segments, above all ids; a Python integer.
          mask: Selects valid elements, or gives weights.

        Returns:
          The normalized input, of the shape of x.
        """
        return self._normalize(
            x, mask, segment_ids=segment_ids, num_segments=num_segments
        )


@description
class GraphNorm(SegmentLayer):
    """Graph norm.

    Attributes:
      epsilon: Added to the mean square; at least 0. PyTorch Geometric's is 1e-5.
      use_mean_scale: Whether to subtract a learned share of the mean. False: all of it,
        which makes the layer an instance norm of segments.
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

    _function = staticmethod(jaxnorm.graph_norm)
    _optional = ("mean_scale", "scale", "bias")


@description
class SegmentLayerNorm(SegmentLayer, AffineLayer):
    """Layer norm of segments.

    Attributes:
      reduction_axes: The axis or axes to average over besides the positions.
    """

    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    _function = staticmethod(jaxnorm.segment_layer_norm)
    _own_options = ("reduction_axes",)


@description
class SegmentRMSNorm(SegmentLayer, ScaleLayer):
    """Root mean square norm of segments.

    Attributes:
      reduction_axes: The axis or axes to average over besides the positions.
    """

    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    _function = staticmethod(jaxnorm.segment_rms_norm)
    _own_options = ("reduction_axes",)
