"""Per-segment norms as Flax Linen modules."""

from jaxnorm._layers import segment as layers
from jaxnorm.linen.module import SampleModule

__all__ = ["GraphNorm", "SegmentLayerNorm", "SegmentRMSNorm"]


class GraphNorm(SampleModule, layers.GraphNorm):
    """Graph normalization, which subtracts a learned share of the mean.

    With `use_mean_scale=False` it is instance norm of segments. Parameters are scale,
    bias and `mean_scale`, the share. It computes `jaxnorm.graph_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> ids = jnp.array([0, 0, 1, 1])
      >>> norm = jaxnorm.linen.GraphNorm()
      >>> variables = norm.init(jax.random.key(0), x, ids, 2)
      >>> norm.apply(variables, x, ids, 2).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """


class SegmentLayerNorm(SampleModule, layers.SegmentLayerNorm):
    """Layer normalization over the positions and features of each segment.

    Parameters are scale and bias. It computes `jaxnorm.segment_layer_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> ids = jnp.array([0, 0, 1, 1])
      >>> norm = jaxnorm.linen.SegmentLayerNorm()
      >>> variables = norm.init(jax.random.key(0), x, ids, 2)
      >>> norm.apply(variables, x, ids, 2).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """


class SegmentRMSNorm(SampleModule, layers.SegmentRMSNorm):
    """Root mean square normalization of each segment.

    The only parameter is scale. It computes `jaxnorm.segment_rms_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[2.0], [2.0], [3.0], [-3.0]])
      >>> ids = jnp.array([0, 0, 1, 1])
      >>> norm = jaxnorm.linen.SegmentRMSNorm()
      >>> variables = norm.init(jax.random.key(0), x, ids, 2)
      >>> norm.apply(variables, x, ids, 2).round(3).ravel()
      Array([ 1.,  1.,  1., -1.], dtype=float32)
    """
