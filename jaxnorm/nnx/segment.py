"""Per-segment norms as Flax NNX modules."""

from jaxnorm._layers import segment as layers
from jaxnorm.nnx.module import SampleModule
from jaxnorm.nnx.variables import Parameter, created

__all__ = ["GraphNorm", "SegmentLayerNorm", "SegmentRMSNorm"]


class GraphNorm(SampleModule, layers.GraphNorm):
    """Graph normalization, which subtracts a learned share of the mean.

    With `use_mean_scale=False` it is instance norm of segments. Parameters are scale,
    bias and `mean_scale`, the share. It computes `jaxnorm.graph_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.GraphNorm(1, rngs=nnx.Rngs(0))
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> norm(x, jnp.array([0, 0, 1, 1]), 2).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """

    mean_scale: Parameter = created()


class SegmentLayerNorm(SampleModule, layers.SegmentLayerNorm):
    """Layer normalization over the positions and features of each segment.

    Parameters are scale and bias. It computes `jaxnorm.segment_layer_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.SegmentLayerNorm(1, rngs=nnx.Rngs(0))
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> norm(x, jnp.array([0, 0, 1, 1]), 2).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """


class SegmentRMSNorm(SampleModule, layers.SegmentRMSNorm):
    """Root mean square normalization of each segment.

    The only parameter is scale. It computes `jaxnorm.segment_rms_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.SegmentRMSNorm(1, rngs=nnx.Rngs(0))
      >>> x = jnp.array([[2.0], [2.0], [3.0], [-3.0]])
      >>> norm(x, jnp.array([0, 0, 1, 1]), 2).round(3).ravel()
      Array([ 1.,  1.,  1., -1.], dtype=float32)
    """
