"""Batch norm with several sets of statistics as Flax NNX modules."""

from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxnorm._layers import recurrent as layers
from jaxnorm.batch.batch_norm_by_index import check_indices
from jaxnorm.nnx.batch_module import BatchModule


class RecurrentBatchNorm(BatchModule, layers.RecurrentBatchNorm):
    """Batch norm inside a recurrent cell, with statistics for each time step.

    The mathematics is that of `jaxnorm.recurrent_batch_norm`. Variables: `nnx.Param`:
    scale and bias, shared over time; `nnx.BatchStat`: mean, var, with a leading axis of
    time steps. In `nnx.scan` they are carried:
    `nnx.StateAxes({nnx.BatchStat: nnx.Carry, ...: None})`.

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
        return self._normalize(x, use_running_average, mask, step=step)


class DomainBatchNorm(BatchModule, layers.DomainBatchNorm):
    """Batch norm with statistics for each domain; the index of one comes with the call.

    When it is of use, and where it comes from, says `jaxnorm.linen.DomainBatchNorm`.
    Variables: `nnx.Param`: scale, bias; `nnx.BatchStat`: mean, var, with a leading axis
    of domains.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.DomainBatchNorm(
      ...     1, num_domains=2, momentum=0.5, rngs=nnx.Rngs(0)
      ... )
      >>> y = norm(jnp.array([[1.0], [3.0]]), 1)
      >>> norm.mean[:, 0]
      Array([0., 1.], dtype=float32)
    """

    def __call__(
        self,
        x: Shaped[Array, "batch ..."],
        domain: ArrayLike,
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of shape (batch, ...).
          domain: Index of the domain in [0, num_domains): an integer scalar, or an
            array with one for each example, whose statistics are then those of its
            domain alone. One that is traced cannot be refused: out of range it counts
            as the last, and of a scalar
            `checkify.checkify(f, errors=checkify.index_checks)` reports it.
          use_running_average: False in training, True in inference.
          mask: Which elements count, or their weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.

        Raises:
          TypeError: If the domain is no integer.
          ValueError: If it is of another shape, or known while tracing and out of
            range.
        """
        domain = check_indices(domain, "domain", x, self._number_of_sets())
        return self._normalize(x, use_running_average, mask, step=domain)
