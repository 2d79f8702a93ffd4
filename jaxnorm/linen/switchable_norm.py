"""Switchable normalization as a Flax Linen module."""

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.linen.affine import affine_params, floating_input
from jaxnorm.linen.batch_module import BatchModule


class SwitchableNorm(BatchModule):
    """A learned mixture of instance, layer and batch statistics.

    The mathematics is that of `jaxnorm.switchable_norm`. Variables: `params`: scale,
    bias, mean_logits and var_logits; `batch_stats`: mean, var.

    Attributes are those of `BatchModule`, and:

    Attributes:
      logits_init: Initializer of the logits; 1, so that all three count alike.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.SwitchableNorm(momentum=0.5)
      >>> x = jnp.array([[[1.0], [3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> variables["params"]["mean_logits"], updates["batch_stats"]["mean"]
      (Array([1., 1., 1.], dtype=float32), Array([1.], dtype=float32))
    """

    logits_init: Initializer = nn.initializers.ones

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
        mean_logits, var_logits = (
            self.param(name, self.logits_init, (3,), self.param_dtype)
            for name in ("mean_logits", "var_logits")
        )
        scale, bias = affine_params(self, shape)
        y, new = jaxnorm.switchable_norm(
            x, stats, mean_logits, var_logits, scale, bias, **options
        )
        self.store(new._asdict(), options)
        return y
