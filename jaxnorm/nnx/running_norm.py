"""Running normalization of a stream as a Flax NNX module."""

from typing import Any, Unpack

from flax import nnx
from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.batch.stream_options import stream_options
from jaxnorm.nnx.batch_module import BatchLayer, BatchModuleOptions


class RunningNorm(BatchLayer):
    """Normalizes by the moments of all that was seen, for observations and the like.

    The mathematics is that of `jaxnorm.running_norm`, with `update` where
    `use_running_average` is False. Variables: `nnx.BatchStat`: those of
    `jaxnorm.RunningMoments`: count, mean, var, and what is to be added to each of them,
    count_rest, mean_rest, var_rest. There are no parameters.

    Attributes are those of `BatchModule`, of which momentum must be left out and
    `unbiased` be False. Those that concern scale and bias are not there, and
    `use_fast_variance` has no effect: there always are two passes. And:

    Attributes:
      max_abs: The result is clipped to [-max_abs, max_abs]; not clipped where None.
      max_count: The past weighs as much as that many elements at most; where None, all
        that was seen weighs the same.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.RunningNorm(1, max_abs=10.0, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[1.0], [3.0]]))
      >>> y.ravel(), norm.mean[...]
      (Array([-1.,  1.], dtype=float32), Array([2.], dtype=float32))
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        max_abs: float | None = None,
        max_count: int | float | None = None,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        options.setdefault("epsilon", 1e-8)
        # given in the options, too, use_scale or use_bias is an error
        super().__init__(  # type: ignore[misc]
            num_features,
            use_scale=False,
            use_bias=False,
            rngs=rngs,
            **options,
        )
        self.max_abs = max_abs
        self.max_count = max_count

    def _init_stats(self, *, counted: bool) -> jaxnorm.RunningMoments:
        """Returns the moments of a stream of which nothing was seen."""
        return jaxnorm.init_running_moments(self.feature_shape)

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """Normalizes x; see `BatchLayer`."""
        return jaxnorm.running_norm(
            x,
            stats,
            max_abs=self.max_abs,
            max_count=self.max_count,
            **stream_options(options),
        )
