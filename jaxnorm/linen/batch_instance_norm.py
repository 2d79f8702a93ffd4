"""Batch-instance normalization as a Flax Linen module."""

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.linen.affine import affine_params, floating_input
from jaxnorm.linen.batch_module import BatchModule


class BatchInstanceNorm(BatchModule):
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
        shape = self.feature_shape(x)
        stats = self.stats(shape, options)
        gate = self.param("gate", self.gate_init, shape, self.param_dtype)
        scale, bias = affine_params(self, shape)
        y, new = jaxnorm.batch_instance_norm(x, stats, gate, scale, bias, **options)
        self.store(new._asdict(), options)
        return y
