"""Adaptive batch normalization as a Flax Linen module."""

from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.linen.affine import affine_params
from jaxnorm.linen.batch_module import BatchLayer


class AdaptiveBatchNorm(BatchLayer):
    """Instance-aware batch norm; the mathematics is that of `adaptive_batch_norm`.

    The variables are batch norm's, so that checkpoints are interchangeable.

    Attributes are those of `BatchModule`, and:

    Attributes:
      strength: How many standard deviations an example may differ from the batch before
        it is corrected; at least 0.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.AdaptiveBatchNorm(strength=4.0, momentum=0.5)
      >>> x = jnp.array([[[1.0], [3.0]], [[1.0], [3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"]
      Array([1.], dtype=float32)
    """

    strength: float = 4.0

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """Normalizes x; see `BatchLayer`."""
        stats = self.stats(self.feature_shape(x), options)
        scale, bias = affine_params(self, self.feature_shape(x))
        y, new = jaxnorm.adaptive_batch_norm(
            x, stats, scale, bias, strength=self.strength, **options
        )
        self.store(new._asdict(), options)
        return y
