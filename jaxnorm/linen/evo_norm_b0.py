"""EvoNorm B0 as a Flax Linen module."""

from flax import linen as nn
from flax.typing import Initializer
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.linen.affine import affine_params
from jaxnorm.linen.batch_module import BatchLayer


class EvoNormB0(BatchLayer):
    """Normalization by batch and instance, and the activation, in one.

    The mathematics is that of `jaxnorm.evo_norm_b0`. Variables: `params`: scale, bias
    and v; `batch_stats`: var. No activation should follow.

    Attributes are those of `BatchModule`, whose momentum is a number here, and:

    Attributes:
      v_init: Initializer of v; 1.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.EvoNormB0(momentum=0.0)
      >>> x = jnp.array([[[1.0], [3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["var"]
      Array([1.], dtype=float32)
    """

    v_init: Initializer = nn.initializers.ones

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """Normalizes x; see `BatchLayer`."""
        shape = self.feature_shape(x)
        initial = jaxnorm.init_batch_stats(shape, self.stats_dtype)
        state = self.read({"var": initial.var})
        v = self.param("v", self.v_init, shape, self.param_dtype)
        scale, bias = affine_params(self, shape)
        y, new = jaxnorm.evo_norm_b0(x, state["var"], v, scale, bias, **options)
        self.store({"var": new}, options)
        return y
