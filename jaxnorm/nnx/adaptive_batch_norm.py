"""Adaptive batch normalization as a Flax NNX module."""

from typing import Any, Unpack

from flax import nnx
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.nnx.batch_module import BatchLayer, BatchModuleOptions


class AdaptiveBatchNorm(BatchLayer):
    """Instance-aware batch norm; the mathematics is that of `adaptive_batch_norm`.

    The variables are batch norm's, so that checkpoints are interchangeable.

    Attributes are those of `BatchModule`, and:

    Attributes:
      strength: How many standard deviations an example may differ from the batch before
        it is corrected; at least 0.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.AdaptiveBatchNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[[1.0], [3.0]], [[1.0], [3.0]]]))
      >>> norm.mean[...]
      Array([1.], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        strength: float = 4.0,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **options)
        self.strength = strength

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """Normalizes x; see `BatchLayer`."""
        return jaxnorm.adaptive_batch_norm(
            x, stats, scale, bias, strength=self.strength, **options
        )
