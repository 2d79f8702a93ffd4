"""Ghost batch normalization as a Flax NNX module."""

from typing import Any, Unpack

from flax import nnx
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.batch.ghost_stats import StatsRule
from jaxnorm.nnx.batch_module import BatchLayer, BatchModuleOptions


class GhostBatchNorm(BatchLayer):
    """Ghost batch norm; the mathematics is that of `jaxnorm.ghost_batch_norm`.

    The variables are batch norm's, so that checkpoints are interchangeable.

    Attributes are those of `BatchModule` and, with the same meaning, of
    `jaxnorm.linen.GhostBatchNorm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.GhostBatchNorm(
      ...     1, virtual_batch_size=2, momentum=0.0, rngs=nnx.Rngs(0)
      ... )
      >>> y = norm(jnp.array([[1.0], [3.0], [10.0], [30.0]]))
      >>> y[:, 0].round(3), norm.mean[...]
      (Array([-1.,  1., -1.,  1.], dtype=float32), Array([11.], dtype=float32))
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        virtual_batch_size: int,
        stats_rule: StatsRule = "pooled",
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **options)
        self.virtual_batch_size = virtual_batch_size
        self.stats_rule = stats_rule

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """Normalizes x; see `BatchLayer`."""
        return jaxnorm.ghost_batch_norm(
            x,
            stats,
            scale,
            bias,
            virtual_batch_size=self.virtual_batch_size,
            stats_rule=self.stats_rule,
            **options,
        )
