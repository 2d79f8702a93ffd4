"""Batch normalization with statistics for each time step, as a Flax Linen module."""

from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxnorm.linen.indexed_module import IndexedBatchModule


class RecurrentBatchNorm(IndexedBatchModule):
    """Batch norm inside a recurrent cell, with statistics for each time step.

    The mathematics is that of `jaxnorm.recurrent_batch_norm`. Variables: `params`:
    scale and bias, shared over time; `batch_stats`: mean, var, with a leading axis of
    time steps. In `nn.scan` and `nn.RNN` they are carried in training,
    `variable_carry="batch_stats"`, and broadcast in inference,
    `variable_broadcast=("params", "batch_stats")`.

    Attributes are those of `BatchModule`, and:

    Attributes:
      max_steps: For how many time steps statistics are kept, at least 1; those beyond
        use the last ones. Must be given.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.RecurrentBatchNorm(max_steps=3, momentum=0.5)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, 0, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, 1, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"][:, 0]
      Array([0., 1., 0.], dtype=float32)
    """

    max_steps: int = 0

    @nn.compact
    def __call__(
        self,
        x: Shaped[Array, "batch ..."],
        step: ArrayLike,
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of one time step.
          step: Index of the time step, from 0; an integer scalar, traced or not.
          use_running_average: False in training, True in inference.
          mask: Which elements count, those of sequences that go on; see
            `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        return self.normalize(x, step, self.max_steps, use_running_average, mask)
