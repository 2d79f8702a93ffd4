"""Batch-instance normalization as a Flax Linen module."""

from flax import linen as nn
from flax.typing import Initializer
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.linen.affine import affine_params
from jaxnorm.linen.batch_module import BatchLayer


class BatchInstanceNorm(BatchLayer):
    """A learned mixture of batch norm and instance norm for each feature.

    The mathematics is that of `jaxnorm.batch_instance_norm`. Variables: `params`:
    scale, bias and gate; `batch_stats`: mean, var. Keep the gate in [0, 1] with
    `optax.chain(..., jaxnorm.gate_projection())`.

    Attributes are those of `BatchModule`, and:

    Attributes:
      gate_init: Initializer of the gate; 1, which is batch norm.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.BatchInstanceNorm(momentum=0.5)
      >>> x = jnp.array([[[1.0], [3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> variables["params"]["gate"], updates["batch_stats"]["mean"]
      (Array([1.], dtype=float32), Array([1.], dtype=float32))
    """

    gate_init: Initializer = nn.initializers.ones

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """Normalizes x; see `BatchLayer`."""
        shape = self.feature_shape(x)
        stats = self.stats(shape, options)
        gate = self.param("gate", self.gate_init, shape, self.param_dtype)
        scale, bias = affine_params(self, shape)
        y, new = jaxnorm.batch_instance_norm(x, stats, gate, scale, bias, **options)
        self.store(new._asdict(), options)
        return y
