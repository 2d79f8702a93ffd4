"""Response norms, and activations that replace norms, as Flax Linen modules."""

from jaxnorm._layers import pointwise, response
from jaxnorm.linen.module import SampleModule

__all__ = [
    "DynamicErf",
    "DynamicTanh",
    "EvoNormS0",
    "FilterResponseNorm",
    "GlobalResponseNorm",
]


class FilterResponseNorm(SampleModule, response.FilterResponseNorm):
    """Filter response normalization with its thresholded linear unit (TLU).

    It replaces a normalizer and the activation after it. Parameters are
    `scale`, `bias`, `threshold` and, where asked for, `learned_epsilon`, each of the
    feature shape. It computes `jaxnorm.filter_response_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[[3.0], [-3.0]]])  # one example, two positions
      >>> norm = jaxnorm.linen.FilterResponseNorm()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(3)
      Array([[[1.],
              [0.]]], dtype=float32)
    """


class GlobalResponseNorm(SampleModule, response.GlobalResponseNorm):
    """Global response normalization, in which the features of an example compete.

    Parameters are `scale` and `bias`, of the feature shape. They start at 0, where the
    layer is the identity. It computes `jaxnorm.global_response_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[[3.0, 1.0], [4.0, 0.0]]])  # one example, two positions
      >>> norm = jaxnorm.linen.GlobalResponseNorm()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x)
      Array([[[3., 1.],
              [4., 0.]]], dtype=float32)
    """


class EvoNormS0(SampleModule, response.EvoNormS0):
    """EvoNorm-S0: a gate divided by the standard deviation of a group of features.

    It replaces a normalizer and the activation after it. Parameters are
    `v`, `scale` and `bias`, of the feature shape. It computes `jaxnorm.evo_norm_s0`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0, 3.0, -1.0, -3.0]])
      >>> norm = jaxnorm.linen.EvoNormS0(num_groups=2)
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(1)
      Array([[ 0.7,  2.9, -0.3, -0.1]], dtype=float32)
    """


class DynamicTanh(SampleModule, pointwise.DynamicTanh):
    """Dynamic tanh, which replaces layer norm without using statistics.

    Parameters are `alpha`, a scalar, and `scale` and `bias`, of the feature shape. It
    computes `jaxnorm.dynamic_tanh`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[0.0, 2.0], [-2.0, 100.0]])
      >>> norm = jaxnorm.linen.DynamicTanh()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(3)
      Array([[ 0.   ,  0.762],
             [-0.762,  1.   ]], dtype=float32)
    """


class DynamicErf(SampleModule, pointwise.DynamicErf):
    """Dynamic erf (Derf), which replaces layer norm without using statistics.

    Parameters are `alpha` and `shift`, scalars, and `scale` and `bias`, of the feature
    shape. It computes `jaxnorm.dynamic_erf`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[0.0, 2.0], [-2.0, 100.0]])
      >>> norm = jaxnorm.linen.DynamicErf()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> norm.apply(variables, x).round(1)
      Array([[ 0. ,  0.8],
             [-0.8,  1. ]], dtype=float32)
    """
