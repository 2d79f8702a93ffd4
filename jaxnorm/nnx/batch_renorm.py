"""Batch renormalization as a Flax NNX module."""

from typing import Any, Unpack

from flax import nnx
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.core.momentum import Schedule
from jaxnorm.nnx.batch_module import BatchLayer, BatchModuleOptions


class BatchRenorm(BatchLayer):
    """Batch renormalization; the mathematics is that of `jaxnorm.batch_renorm`.

    Variables: `nnx.Param`: scale, bias; `nnx.BatchStat`: mean, std, and count, the
    number of updates.

    Attributes are those of `BatchModule`, whose `unbiased` must be False, and, with the
    same meaning, of `jaxnorm.linen.BatchRenorm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> bounds = jaxnorm.warmup_renorm(start=100, r_end=1_000, d_end=500)
      >>> norm = jaxnorm.nnx.BatchRenorm(
      ...     1, **bounds._asdict(), momentum=0.5, rngs=nnx.Rngs(0)
      ... )
      >>> y = norm(jnp.array([[1.0], [3.0]]))
      >>> norm.mean[...], norm.count[...]
      (Array([1.], dtype=float32), Array(1., dtype=float32))
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        r_max: float | Schedule = 3.0,
        d_max: float | Schedule = 5.0,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **options)
        self.r_max = r_max
        self.d_max = d_max

    def _init_stats(self, *, counted: bool) -> Any:
        """Returns the running statistics, which are counted in any case."""
        return jaxnorm.init_renorm_stats(self.feature_shape)

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """Normalizes x; see `BatchLayer`."""
        return jaxnorm.batch_renorm(
            x, stats, scale, bias, r_max=self.r_max, d_max=self.d_max, **options
        )
