"""Batch-instance normalization as a Flax NNX module."""

from typing import Any, Unpack

from flax import nnx
from flax.typing import Initializer
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.nnx.affine import read
from jaxnorm.nnx.batch_module import BatchLayer, BatchModuleOptions


class BatchInstanceNorm(BatchLayer):
    """A learned mixture of batch norm and instance norm for each feature.

    The mathematics is that of `jaxnorm.batch_instance_norm`. Variables: `nnx.Param`:
    scale, bias and gate; `nnx.BatchStat`: mean, var. Keep the gate in [0, 1] with
    `optax.chain(..., jaxnorm.gate_projection())`.

    Attributes are those of `BatchModule`, and:

    Attributes:
      gate: `nnx.Param` of the feature shape; from `gate_init`, by default 1, which is
        batch norm.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.BatchInstanceNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[[1.0], [3.0]]]))
      >>> norm.gate[...], norm.mean[...]
      (Array([1.], dtype=float32), Array([1.], dtype=float32))
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        gate_init: Initializer = nnx.initializers.ones,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **options)
        self.gate = self._draw(gate_init, rngs)

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """Normalizes x; see `BatchLayer`."""
        gate = read(self.gate)
        return jaxnorm.batch_instance_norm(x, stats, gate, scale, bias, **options)
