"""Mean-only batch normalization as a Flax Linen module."""

from jax import Array

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.linen.affine import affine_params
from jaxnorm.linen.batch_module import BatchLayer


class MeanOnlyBatchNorm(BatchLayer):
    """Subtracts the mean of the batch; the companion of `WeightNorm`.

    The mathematics is that of `jaxnorm.mean_only_batch_norm`. Variables: `params`:
    bias; `batch_stats`: mean.

    Attributes are those of `BatchModule`; those that concern a variance or a scale have
    no effect, and momentum is a number.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.MeanOnlyBatchNorm(momentum=0.5)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> y[:, 0], updates["batch_stats"]["mean"]
      (Array([-1.,  1.], dtype=float32), Array([1.], dtype=float32))
    """

    use_scale: bool = False

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """Normalizes x; see `BatchLayer`."""
        shape = self.feature_shape(x)
        initial = jaxnorm.init_batch_stats(shape, self.stats_dtype)
        state = self.read({"mean": initial.mean})
        _, bias = affine_params(self, shape)
        y, new = jaxnorm.mean_only_batch_norm(x, state["mean"], bias, **options)
        self.store({"mean": new}, options)
        return y
