"""Ghost batch normalization as a Flax Linen module."""

from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.batch.ghost_stats import StatsRule
from jaxnorm.linen.affine import affine_params
from jaxnorm.linen.batch_module import BatchLayer


class GhostBatchNorm(BatchLayer):
    """Ghost batch norm; the mathematics is that of `jaxnorm.ghost_batch_norm`.

    The variables are batch norm's, so that checkpoints are interchangeable.

    Attributes are those of `BatchModule`, whose `axis_index_groups` must be None, and:

    Attributes:
      virtual_batch_size: Examples of a ghost, over all devices of `axis_name`; must be
        given.
      stats_rule: How the running statistics follow those of the ghosts: "pooled",
        "mean" or "sequential".

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.GhostBatchNorm(virtual_batch_size=2, momentum=0.0)
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> y[:, 0].round(3), updates["batch_stats"]["mean"]
      (Array([-1.,  1., -1.,  1.], dtype=float32), Array([11.], dtype=float32))
    """

    virtual_batch_size: int = -1
    stats_rule: StatsRule = "pooled"

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """Normalizes x; see `BatchLayer`."""
        if self.is_initializing():  # with any number of examples
            options["use_running_average"] = True
        stats = self.stats(self.feature_shape(x), options)
        scale, bias = affine_params(self, self.feature_shape(x))
        y, new = jaxnorm.ghost_batch_norm(
            x,
            stats,
            scale,
            bias,
            virtual_batch_size=self.virtual_batch_size,
            stats_rule=self.stats_rule,
            **options,
        )
        self.store(new._asdict(), options)
        return y
