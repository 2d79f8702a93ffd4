"""Switchable normalization as a Flax Linen module."""

from flax import linen as nn
from flax.typing import Initializer
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.linen.affine import affine_params
from jaxnorm.linen.batch_module import BatchLayer


class SwitchableNorm(BatchLayer):
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

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """Normalizes x; see `BatchLayer`."""
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
