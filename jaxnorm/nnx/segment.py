"""Norms of segments as Flax NNX modules."""

from jax import Array
from jaxtyping import Inexact, Integer, Shaped

from jaxnorm._layers import segment as layers
from jaxnorm.nnx.module import SampleModule


class SegmentModule(SampleModule):
    """A module that is told which segment each position is in."""

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
          num_segments: Bound of the ids; a Python integer.
          mask: Which elements count, or their weights.

        Returns:
          The normalized input, of the shape of x.
        """
        return self._normalize(
            x, mask, segment_ids=segment_ids, num_segments=num_segments
        )


class GraphNorm(SegmentModule, layers.GraphNorm):
    """Graph normalization: each feature of each graph, less a share of its mean.

    With `use_mean_scale=False` it is instance norm of segments. Parameters are scale,
    bias and `mean_scale`, the share. The mathematics is that of `jaxnorm.graph_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.GraphNorm(1, rngs=nnx.Rngs(0))
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> norm(x, jnp.array([0, 0, 1, 1]), 2).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """


class SegmentLayerNorm(SegmentModule, layers.SegmentLayerNorm):
    """Layer normalization of segments: each over its positions and features.

    Parameters are scale and bias. The mathematics is that of
    `jaxnorm.segment_layer_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.SegmentLayerNorm(1, rngs=nnx.Rngs(0))
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> norm(x, jnp.array([0, 0, 1, 1]), 2).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """


class SegmentRMSNorm(SegmentModule, layers.SegmentRMSNorm):
    """Root mean square normalization of segments.

    The only parameter is scale. The mathematics is that of
    `jaxnorm.segment_rms_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.SegmentRMSNorm(1, rngs=nnx.Rngs(0))
      >>> x = jnp.array([[2.0], [2.0], [3.0], [-3.0]])
      >>> norm(x, jnp.array([0, 0, 1, 1]), 2).round(3).ravel()
      Array([ 1.,  1.,  1., -1.], dtype=float32)
    """
