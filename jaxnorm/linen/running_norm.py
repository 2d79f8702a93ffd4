"""Running normalization of a stream as a Flax Linen module."""

from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.batch.stream_options import stream_options
from jaxnorm.linen.batch_module import BatchLayer


class RunningNorm(BatchLayer):
    """Normalizes by the moments of all that was seen, for observations and the like.

    The mathematics is that of `jaxnorm.running_norm`, with `update` where
    `use_running_average` is False. Variables: `batch_stats`: those of
    `jaxnorm.RunningMoments`: count, mean, var, and what is to be added to each of them,
    count_rest, mean_rest, var_rest. There are no parameters.

    Attributes are those of `BatchModule`, of which momentum must be left out and
    `unbiased` be False. Those that concern scale and bias have no effect, nor has
    `use_fast_variance`: there always are two passes. And:

    Attributes:
      max_abs: The result is clipped to [-max_abs, max_abs]; not clipped where None.
      max_count: The past weighs as much as that many elements at most; where None, all
        that was seen weighs the same.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.RunningNorm(max_abs=10.0)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> y.ravel(), updates["batch_stats"]["mean"]
      (Array([-1.,  1.], dtype=float32), Array([2.], dtype=float32))
    """

    epsilon: float = 1e-8
    use_bias: bool = False
    use_scale: bool = False
    max_abs: float | None = None
    max_count: int | float | None = None

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """Normalizes x; see `BatchLayer`."""
        initial = jaxnorm.init_running_moments(self.feature_shape(x), self.stats_dtype)
        moments = jaxnorm.RunningMoments(**self.read(initial._asdict()))
        y, new = jaxnorm.running_norm(
            x,
            moments,
            max_abs=self.max_abs,
            max_count=self.max_count,
            **stream_options(options),
        )
        self.store(new._asdict(), options)
        return y
