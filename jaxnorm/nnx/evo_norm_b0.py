"""EvoNorm B0 as a Flax NNX module."""

from typing import Any, NamedTuple, Unpack

from flax import nnx
from flax.typing import Initializer
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.nnx.affine import read
from jaxnorm.nnx.batch_module import BatchLayer, BatchModuleOptions


class RunningVariance(NamedTuple):
    """The one statistic: the running variance, of the feature shape."""

    var: Array


class EvoNormB0(BatchLayer):
    """Normalization by batch and instance, and the activation, in one.

    The mathematics is that of `jaxnorm.evo_norm_b0`. Variables: `nnx.Param`: scale,
    bias and v; `nnx.BatchStat`: var. No activation should follow.

    Attributes are those of `BatchModule`, whose momentum is a number here, and:

    Attributes:
      v: `nnx.Param` of the feature shape; from `v_init`, by default 1.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.EvoNormB0(1, momentum=0.0, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[[1.0], [3.0]]]))
      >>> norm.var[...]
      Array([1.], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        v_init: Initializer = nnx.initializers.ones,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **options)
        self.v = self._draw(v_init, rngs)

    def _init_stats(self, *, counted: bool) -> RunningVariance:
        """Returns the running variance before the first update."""
        return RunningVariance(jaxnorm.init_batch_stats(self.feature_shape).var)

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """Normalizes x; see `BatchLayer`."""
        y, var = jaxnorm.evo_norm_b0(x, stats.var, read(self.v), scale, bias, **options)
        return y, RunningVariance(var)
