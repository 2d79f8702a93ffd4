"""Batch renormalization as a Flax Linen module."""

from jax import Array
from jax.typing import ArrayLike

import jaxnorm
from jaxnorm.batch.call import BatchOptions
from jaxnorm.core.momentum import Schedule
from jaxnorm.linen.affine import affine_params
from jaxnorm.linen.batch_module import BatchLayer


class BatchRenorm(BatchLayer):
    """Batch renormalization; the mathematics is that of `jaxnorm.batch_renorm`.

    Variables: `params`: scale, bias; `batch_stats`: mean, std, and count, the number of
    updates, of which momentum and the two bounds may be functions.

    Attributes are those of `BatchModule`, whose `unbiased` must be False, and:

    Attributes:
      r_max: Bound of the correction of scale, at least 1, or a function of the number
        of updates so far.
      d_max: Bound of the correction of the mean, in standard deviations, at least 0, or
        a function of the number of updates so far.

    The defaults are what the paper's schedule ends with. That schedule itself, which
    begins with plain batch norm, is `**jaxnorm.warmup_renorm()._asdict()`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> bounds = jaxnorm.warmup_renorm(start=100, r_end=1_000, d_end=500)
      >>> norm = jaxnorm.linen.BatchRenorm(**bounds._asdict(), momentum=0.5)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"], updates["batch_stats"]["count"]
      (Array([1.], dtype=float32), Array(1., dtype=float32))
    """

    r_max: ArrayLike | Schedule = 3.0
    d_max: ArrayLike | Schedule = 5.0

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """Normalizes x; see `BatchLayer`."""
        shape = self.feature_shape(x)
        initial = jaxnorm.init_renorm_stats(shape)
        stats = jaxnorm.RenormStats(**self.read(initial._asdict()))
        scale, bias = affine_params(self, shape)
        y, new = jaxnorm.batch_renorm(
            x, stats, scale, bias, r_max=self.r_max, d_max=self.d_max, **options
        )
        self.store(new._asdict(), options)
        return y
