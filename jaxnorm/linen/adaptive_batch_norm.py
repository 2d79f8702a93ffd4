"""Adaptive batch normalization as a Flax Linen module."""

from flax import linen as nn
from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.linen.affine import affine_params, floating_input
from jaxnorm.linen.batch_module import BatchModule


class AdaptiveBatchNorm(BatchModule):
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
        stats = self.stats(self.feature_shape(x), options)
        scale, bias = affine_params(self, self.feature_shape(x))
        y, new = jaxnorm.adaptive_batch_norm(
            x, stats, scale, bias, strength=self.strength, **options
        )
        self.store(new._asdict(), options)
        return y
