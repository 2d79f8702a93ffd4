"""Mean-only batch normalization as a Flax NNX module."""

from typing import Any, NamedTuple, Unpack

from flax import nnx
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.nnx.batch_module import BatchLayer, BatchModuleOptions


class RunningMean(NamedTuple):
    """The one statistic: the running mean, of the feature shape."""

    mean: Array


class MeanOnlyBatchNorm(BatchLayer):
    """Subtracts the mean of the batch; the companion of `WeightNorm`.

    The mathematics is that of `jaxnorm.mean_only_batch_norm`. Variables: `nnx.Param`:
    bias; `nnx.BatchStat`: mean.

    Attributes are those of `BatchModule`; those that concern a variance have no effect,
    there is no scale, and momentum is a number.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.MeanOnlyBatchNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[1.0], [3.0]]))
      >>> y[:, 0], norm.mean[...]
      (Array([-1.,  1.], dtype=float32), Array([1.], dtype=float32))
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        # given in the options, too, use_scale is an error
        super().__init__(num_features, use_scale=False, rngs=rngs, **options)  # type: ignore[misc]

    def _init_stats(self, *, counted: bool) -> RunningMean:
        """Returns the running mean before the first update."""
        return RunningMean(jaxnorm.init_batch_stats(self.feature_shape).mean)

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """Normalizes x; see `BatchLayer`."""
        y, mean = jaxnorm.mean_only_batch_norm(x, stats.mean, bias, **options)
        return y, RunningMean(mean)
