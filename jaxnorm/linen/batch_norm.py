"""Batch normalization as a Flax Linen module."""

from flax import linen as nn
from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.linen.affine import affine_params, floating_input
from jaxnorm.linen.batch_module import BatchModule


class BatchNorm(BatchModule):
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

    @nn.compact
    def __call__(
        self,
        x: Shaped[Array, "..."],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of any shape. Integers are converted to float32, as in Flax.
          use_running_average: False in training, True in inference.
          mask: Which elements count, or their weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        x = floating_input(x)
        options = self.options(x, use_running_average, mask)
        stats = self.stats(self.feature_shape(x), options)
        scale, bias = affine_params(self, self.feature_shape(x))
        y, new = jaxnorm.batch_norm(x, stats, scale, bias, **options)
        self.store(new._asdict(), options)
        return y
