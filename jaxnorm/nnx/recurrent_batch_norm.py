"""Batch normalization with statistics for each time step, as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxnorm.nnx.batch_module import BatchModuleOptions
from jaxnorm.nnx.indexed_module import IndexedModule


class RecurrentBatchNorm(IndexedModule):
    """Batch norm inside a recurrent cell, with statistics for each time step.

    The mathematics is that of `jaxnorm.recurrent_batch_norm`. Variables: `nnx.Param`:
    scale and bias, shared over time; `nnx.BatchStat`: mean, var, with a leading axis of
    time steps. In `nnx.scan` they are carried:
    `nnx.StateAxes({nnx.BatchStat: nnx.Carry, ...: None})`.

    Attributes are those of `BatchModule`, and:

    Attributes:
      max_steps: For how many time steps statistics are kept, at least 1; those beyond
        use the last ones.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.RecurrentBatchNorm(
      ...     1, max_steps=3, momentum=0.5, rngs=nnx.Rngs(0)
      ... )
      >>> y = norm(jnp.array([[1.0], [3.0]]), 1)
      >>> norm.mean[:, 0]
      Array([0., 1., 0.], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        max_steps: int,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        super().__init__(num_features, max_steps, rngs=rngs, **options)
        self.max_steps = max_steps

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
        return self._run_at(step, x, use_running_average, mask)
