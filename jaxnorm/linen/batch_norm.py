"""Batch normalization as a Flax Linen module."""

from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.linen.affine import affine_params
from jaxnorm.linen.batch_module import BatchLayer


class BatchNorm(BatchLayer):
    """Batch normalization with running statistics in the `batch_stats` collection.

    A drop-in superset of `flax.linen.BatchNorm`: the same arguments, defaults, variable
    tree (`params`: scale, bias; `batch_stats`: mean, var) and initialization, so that
    its checkpoints load unchanged. The mathematics is that of `jaxnorm.batch_norm`.

    Attributes are those of `BatchModule`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
      >>> norm = jaxnorm.linen.BatchNorm(momentum=0.5)
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"]
      Array([ 1., 10.], dtype=float32)
    """

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """Normalizes x; see `BatchLayer`."""
        stats = self.stats(self.feature_shape(x), options)
        scale, bias = affine_params(self, self.feature_shape(x))
        y, new = jaxnorm.batch_norm(x, stats, scale, bias, **options)
        self.store(new._asdict(), options)
        return y
