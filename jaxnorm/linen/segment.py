"""Norms of segments as Flax Linen modules."""

from flax import linen as nn
from jax import Array
from jaxtyping import Inexact, Integer, Shaped

from jaxnorm._layers import segment as layers
from jaxnorm.linen.module import SampleModule


class SegmentModule(SampleModule):
    """A module that is told which segment each position is in."""

    @nn.compact
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
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> ids = jnp.array([0, 0, 1, 1])
      >>> norm = jaxnorm.linen.GraphNorm()
      >>> variables = norm.init(jax.random.key(0), x, ids, 2)
      >>> norm.apply(variables, x, ids, 2).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """


class SegmentLayerNorm(SegmentModule, layers.SegmentLayerNorm):
    """Layer normalization of segments: each over its positions and features.

    Parameters are scale and bias. The mathematics is that of
    `jaxnorm.segment_layer_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> ids = jnp.array([0, 0, 1, 1])
      >>> norm = jaxnorm.linen.SegmentLayerNorm()
      >>> variables = norm.init(jax.random.key(0), x, ids, 2)
      >>> norm.apply(variables, x, ids, 2).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """


class SegmentRMSNorm(SegmentModule, layers.SegmentRMSNorm):
    """Root mean square normalization of segments.

    The only parameter is scale. The mathematics is that of
    `jaxnorm.segment_rms_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[2.0], [2.0], [3.0], [-3.0]])
      >>> ids = jnp.array([0, 0, 1, 1])
      >>> norm = jaxnorm.linen.SegmentRMSNorm()
      >>> variables = norm.init(jax.random.key(0), x, ids, 2)
      >>> norm.apply(variables, x, ids, 2).round(3).ravel()
      Array([ 1.,  1.,  1., -1.], dtype=float32)
    """
