"""Response norms, and activations that replace norms, as Flax NNX modules."""

from jaxnorm._layers import pointwise, response
from jaxnorm.nnx.module import SampleModule
from jaxnorm.nnx.variables import Parameter, created

__all__ = [
    "DynamicErf",
    "DynamicTanh",
    "EvoNormS0",
    "FilterResponseNorm",
    "GlobalResponseNorm",
]


class FilterResponseNorm(SampleModule, response.FilterResponseNorm):
    """Filter response normalization with its thresholded linear unit (TLU).

    It replaces a normalizer and the activation after it. It computes
    `jaxnorm.filter_response_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.FilterResponseNorm(1, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[[3.0], [-3.0]]])).round(3)
      Array([[[1.],
              [0.]]], dtype=float32)
    """

    threshold: Parameter = created()
    learned_epsilon: Parameter = created()


class GlobalResponseNorm(SampleModule, response.GlobalResponseNorm):
    """Global response normalization, in which the features of an example compete.

    Scale and bias start at 0, where the layer is the identity. It computes
    `jaxnorm.global_response_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.GlobalResponseNorm(2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[[3.0, 1.0], [4.0, 0.0]]]))
      Array([[[3., 1.],
              [4., 0.]]], dtype=float32)
    """


class EvoNormS0(SampleModule, response.EvoNormS0):
    """EvoNorm-S0: a gate divided by the standard deviation of a group of features.

    It replaces a normalizer and the activation after it. It computes
    `jaxnorm.evo_norm_s0`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.EvoNormS0(4, num_groups=2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[1.0, 3.0, -1.0, -3.0]])).round(1)
      Array([[ 0.7,  2.9, -0.3, -0.1]], dtype=float32)
    """

    v: Parameter = created()


class DynamicTanh(SampleModule, pointwise.DynamicTanh):
    """Dynamic tanh, which replaces layer norm without using statistics.

    It computes `jaxnorm.dynamic_tanh`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.DynamicTanh(2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[0.0, 2.0], [-2.0, 100.0]])).round(3)
      Array([[ 0.   ,  0.762],
             [-0.762,  1.   ]], dtype=float32)
    """

    alpha: Parameter = created()


class DynamicErf(SampleModule, pointwise.DynamicErf):
    """Dynamic erf (Derf), which replaces layer norm without using statistics.

    It computes `jaxnorm.dynamic_erf`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.DynamicErf(2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[0.0, 2.0], [-2.0, 100.0]])).round(1)
      Array([[ 0. ,  0.8],
             [-0.8,  1. ]], dtype=float32)
    """

    alpha: Parameter = created()
    shift: Parameter = created()
