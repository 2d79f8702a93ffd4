"""Switchable normalization as a Flax NNX module."""

from typing import Any, Unpack

from flax import nnx
from flax.typing import Initializer
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.nnx.affine import read
from jaxnorm.nnx.batch_module import BatchLayer, BatchModuleOptions


class SwitchableNorm(BatchLayer):
    """A learned mixture of instance, layer and batch statistics.

    The mathematics is that of `jaxnorm.switchable_norm`. Variables: `nnx.Param`: scale,
    bias, mean_logits and var_logits; `nnx.BatchStat`: mean, var.

    Attributes are those of `BatchModule`, and:

    Attributes:
      mean_logits: `nnx.Param` of shape (3,); from `logits_init`, by default 1, so that
        all three count alike.
      var_logits: Likewise.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.SwitchableNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[[1.0], [3.0]]]))
      >>> norm.mean_logits[...], norm.mean[...]
      (Array([1., 1., 1.], dtype=float32), Array([1.], dtype=float32))
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        logits_init: Initializer = nnx.initializers.ones,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **options)
        self.mean_logits = self._draw(logits_init, rngs, (3,))
        self.var_logits = self._draw(logits_init, rngs, (3,))

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """Normalizes x; see `BatchLayer`."""
        logits = read(self.mean_logits), read(self.var_logits)
        return jaxnorm.switchable_norm(x, stats, *logits, scale, bias, **options)
