"""Batch norm with several sets of statistics as Flax Linen modules."""

from flax import linen as nn
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxnorm._layers import recurrent as layers
from jaxnorm.batch.batch_norm_by_index import check_indices
from jaxnorm.linen.module import BatchModule


class RecurrentBatchNorm(BatchModule, layers.RecurrentBatchNorm):
    """Batch norm inside a recurrent cell, with statistics for each time step.

    The mathematics is that of `jaxnorm.recurrent_batch_norm`. Variables: `params`:
    scale and bias, shared over time; `batch_stats`: mean, var, with a leading axis of
    time steps. In `nn.scan` and `nn.RNN` they are carried in training,
    `variable_carry="batch_stats"`, and broadcast in inference,
    `variable_broadcast=("params", "batch_stats")`.

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
        return self._normalize(x, use_running_average, mask, step=step)


class DomainBatchNorm(BatchModule, layers.DomainBatchNorm):
    """Batch norm with statistics for each domain; the index of one comes with the call.

    For data from several sources whose activations differ: languages, scanners, clean
    and adversarial images. Scale and bias are shared; where each domain shall have its
    own, use one `BatchNorm` a domain.

    Variables: `params`: scale, bias; `batch_stats`: mean, var, with a leading axis of
    domains.

    References: Chang et al., 2019, Domain-Specific Batch Normalization
    (https://arxiv.org/abs/1906.03950). Xie et al., 2020, Adversarial Examples Improve
    Image Recognition (https://arxiv.org/abs/1911.09665).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.DomainBatchNorm(num_domains=2, momentum=0.5)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, 0, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, 1, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"][:, 0]
      Array([0., 1.], dtype=float32)
    """

    @nn.compact
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
