"""Response norms, and activations that replace norms, as Equinox modules."""

from jaxnorm._layers import pointwise, response
from jaxnorm.equinox.module import SampleModule, UnmaskedModule

__all__ = [
    "DynamicErf",
    "DynamicTanh",
    "EvoNormS0",
    "FilterResponseNorm",
    "GlobalResponseNorm",
]


class FilterResponseNorm(SampleModule, init=False):
    """Filter response norm; see `jaxnorm.filter_response_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.FilterResponseNorm(1)
      >>> norm(jnp.array([[[3.0], [-3.0]]])).round(3).ravel()
      Array([1., 0.], dtype=float32)
    """

    _description = response.FilterResponseNorm


class GlobalResponseNorm(SampleModule, init=False):
    """Global response norm; see `jaxnorm.global_response_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.GlobalResponseNorm(2)
      >>> norm(jnp.array([[[3.0, 1.0], [4.0, 0.0]]])).ravel()
      Array([3., 1., 4., 0.], dtype=float32)
    """

    _description = response.GlobalResponseNorm


class EvoNormS0(SampleModule, init=False):
    """EvoNorm-S0; see `jaxnorm.evo_norm_s0`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.EvoNormS0(2, num_groups=1)
      >>> norm(jnp.array([[1.0, 3.0]])).round(1)
      Array([[0.7, 2.9]], dtype=float32)
    """

    _description = response.EvoNormS0


class DynamicTanh(UnmaskedModule, init=False):
    """Dynamic tanh; see `jaxnorm.dynamic_tanh`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.DynamicTanh(2)
      >>> norm(jnp.array([[0.0, 2.0]])).round(3)
      Array([[0.   , 0.762]], dtype=float32)
    """

    _description = pointwise.DynamicTanh


class DynamicErf(UnmaskedModule, init=False):
    """Dynamic erf; see `jaxnorm.dynamic_erf`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.DynamicErf(2)
      >>> norm(jnp.array([[0.0, 2.0]])).round(1)
      Array([[0. , 0.8]], dtype=float32)
    """

    _description = pointwise.DynamicErf
