"""Instance-batch normalization as a Flax NNX module."""

from typing import Any, Unpack

import jax
from flax import nnx
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.nnx.batch_module import BatchLayer, BatchModuleOptions


class InstanceBatchNorm(BatchLayer):
    """Instance norm for some features and batch norm for the others, of IBN-Net.

    The mathematics is that of `jaxnorm.instance_batch_norm`. Variables: `nnx.Param`:
    scale and bias of all features; `nnx.BatchStat`: mean and var of those that the
    batch normalizes.

    Attributes are those of `BatchModule`, and:

    Attributes:
      instance_features: How many features, the first, are normalized by instance; by
        default half of them, rounded down.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.InstanceBatchNorm(2, momentum=0.5, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[[1.0, 1.0], [3.0, 3.0]]]))
      >>> norm.mean[...]
      Array([1.], dtype=float32)
    """

    def __init__(
        self,
        num_features: int,
        *,
        instance_features: int | None = None,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        if instance_features is None:
            instance_features = num_features // 2
        self.instance_features = instance_features
        super().__init__(num_features, rngs=rngs, **options)

    def _init_stats(self, *, counted: bool) -> Any:
        """Returns the running statistics of the features that the batch normalizes."""
        (features,) = self.feature_shape
        own = max(features - self.instance_features, 0)
        return jaxnorm.init_batch_stats(own, counted=counted)

    def _moments(self, x: Array, options: BatchOptions) -> jaxnorm.Moments:
        """Returns the exact moments of the features that the batch normalizes."""
        first = self.instance_features
        return jax.tree.map(lambda leaf: leaf[first:], super()._moments(x, options))

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """Normalizes x; see `BatchLayer`."""
        return jaxnorm.instance_batch_norm(
            x, stats, scale, bias, instance_features=self.instance_features, **options
        )
