"""Instance-batch normalization as a Flax Linen module."""

from flax import linen as nn
from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.linen.affine import affine_params, floating_input
from jaxnorm.linen.batch_module import BatchModule


class InstanceBatchNorm(BatchModule):
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

    @nn.compact
    def __call__(
        self,
        x: Shaped[Array, "batch ..."],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of shape (batch, ...).
          use_running_average: False in training, True in inference.
          mask: Which elements count, or their weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        x = floating_input(x)
        options = self.options(x, use_running_average, mask)
        (features,) = self.feature_shape(x)
        own = (
            features // 2 if self.instance_features is None else self.instance_features
        )
        stats = self.stats((max(features - own, 0),), options)
        scale, bias = affine_params(self, (features,))
        y, new = jaxnorm.instance_batch_norm(
            x, stats, scale, bias, instance_features=own, **options
        )
        self.store(new._asdict(), options)
        return y
