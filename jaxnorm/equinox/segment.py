"""Per-segment norms as Equinox modules."""

from jax import Array
from jaxtyping import Inexact, Integer, PRNGKeyArray, Shaped

from jaxnorm._layers import segment
from jaxnorm.equinox.module import SampleModule

__all__ = ["GraphNorm", "SegmentLayerNorm", "SegmentRMSNorm"]


class SegmentModule(SampleModule, init=False):
    """A module whose call takes the segment id of each position."""

    def __call__(  # type: ignore[override]
        self,
        x: Inexact[Array, "..."],
        segment_ids: Integer[Array, "..."],
        num_segments: int,
        *,
        mask: Shaped[Array, "..."] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """Normalizes the segments of x.

        Args:
          x: Input of shape (positions, ..., features).
          segment_ids: The segment of each position, of the shape of leading axes of x;
            see `jaxnorm.segment_layer_norm`.
          num_segments: Upper bound of the ids; a Python integer.
          mask: Selects valid elements, or gives weights.
          key: Ignored.

        Returns:
          The normalized input, of the shape of x.
        """
        del key
        return self._normalize(
            x, mask, segment_ids=segment_ids, num_segments=num_segments
        )


class GraphNorm(SegmentModule, init=False):
    """Graph norm; see `jaxnorm.graph_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.GraphNorm(1)
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> norm(x, jnp.array([0, 0, 1, 1]), 2).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """

    _description = segment.GraphNorm


class SegmentLayerNorm(SegmentModule, init=False):
    """Layer norm of segments; see `jaxnorm.segment_layer_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.SegmentLayerNorm(1)
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> norm(x, jnp.array([0, 0, 1, 1]), 2).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """

    _description = segment.SegmentLayerNorm


class SegmentRMSNorm(SegmentModule, init=False):
    """Root mean square norm of segments; see `jaxnorm.segment_rms_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.SegmentRMSNorm(1)
      >>> x = jnp.array([[2.0], [2.0], [3.0], [-3.0]])
      >>> norm(x, jnp.array([0, 0, 1, 1]), 2).round(3).ravel()
      Array([ 1.,  1.,  1., -1.], dtype=float32)
    """

    _description = segment.SegmentRMSNorm
