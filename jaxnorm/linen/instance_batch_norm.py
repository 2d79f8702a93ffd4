"""Instance-batch normalization as a Flax Linen module."""

import jax
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.linen.affine import affine_params
from jaxnorm.linen.batch_module import BatchLayer


class InstanceBatchNorm(BatchLayer):
    """Instance norm for some features and batch norm for the others, of IBN-Net.

    The mathematics is that of `jaxnorm.instance_batch_norm`. Variables: `params`: scale
    and bias of all features; `batch_stats`: mean and var of those that the batch
    normalizes.

    Attributes are those of `BatchModule`, and:

    Attributes:
      instance_features: How many features, the first, are normalized by instance; None:
        half of them, rounded down.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.InstanceBatchNorm(momentum=0.5)
      >>> x = jnp.array([[[1.0, 1.0], [3.0, 3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"]
      Array([1.], dtype=float32)
    """

    instance_features: int | None = None

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """Normalizes x; see `BatchLayer`."""
        (features,) = self.feature_shape(x)
        own = self._own(features)
        stats = self.stats((max(features - own, 0),), options)
        scale, bias = affine_params(self, (features,))
        y, new = jaxnorm.instance_batch_norm(
            x, stats, scale, bias, instance_features=own, **options
        )
        self.store(new._asdict(), options)
        return y

    def moments(self, x: Array, options: BatchOptions) -> jaxnorm.Moments:
        """Returns the exact moments of the features that the batch normalizes."""
        own = self._own(*self.feature_shape(x))
        return jax.tree.map(lambda leaf: leaf[own:], super().moments(x, options))

    def _own(self, features: int) -> int:
        given = self.instance_features
        return features // 2 if given is None else given
