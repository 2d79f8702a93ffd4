"""Batch normalization as a Flax NNX module."""

from typing import Any, Unpack

from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.nnx.batch_module import BatchLayer


class BatchNorm(BatchLayer):
    """Batch normalization with running statistics.

    A drop-in superset of `flax.nnx.BatchNorm`: the same arguments, defaults and
    variables (`nnx.Param`: scale, bias; `nnx.BatchStat`: mean, var), so that its
    checkpoints load unchanged. The mathematics is that of `jaxnorm.batch_norm`.

    Attributes are those of `BatchModule`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
      >>> norm = jaxnorm.nnx.BatchNorm(2, momentum=0.0, rngs=nnx.Rngs(0))
      >>> y = norm(x)
      >>> norm.mean[...]
      Array([ 2., 20.], dtype=float32)
      >>> norm.eval()
      >>> norm(x).round(3)
      Array([[-1., -1.],
             [ 1.,  1.]], dtype=float32)
    """

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """Normalizes x; see `BatchLayer`."""
        return jaxnorm.batch_norm(x, stats, scale, bias, **options)
