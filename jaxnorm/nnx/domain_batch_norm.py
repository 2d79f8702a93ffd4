"""Batch normalization with statistics for each domain, as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxnorm.core.validation import check_index
from jaxnorm.nnx.batch_module import BatchModuleOptions
from jaxnorm.nnx.indexed_module import IndexedModule


class DomainBatchNorm(IndexedModule):
    """Batch norm with statistics for each domain; the index of one comes with the call.

    When it is of use, and where it comes from, says `jaxnorm.linen.DomainBatchNorm`.
    Variables: `nnx.Param`: scale, bias; `nnx.BatchStat`: mean, var, with a leading axis
    of domains.

    Attributes are those of `BatchModule`, and:

    Attributes:
      num_domains: Number of domains, at least 1.

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

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        num_domains: int,
        rngs: nnx.Rngs,
        **options: Unpack[BatchModuleOptions],
    ) -> None:
        if num_domains < 1:
            raise ValueError(f"num_domains must be at least 1, got {num_domains}.")
        super().__init__(num_features, num_domains, rngs=rngs, **options)
        self.num_domains = num_domains

    def __call__(
        self,
        x: Shaped[Array, "batch ..."],
        domain: ArrayLike,
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x, all of which is of one domain.

        Args:
          x: Input of shape (batch, ...). Split a batch of several domains first.
          domain: Index of the domain in [0, num_domains); an integer scalar. One that
            is traced cannot be refused. Out of range it counts as the last, and
            `checkify.checkify(f, errors=checkify.index_checks)` reports it.
          use_running_average: False in training, True in inference.
          mask: Which elements count, or their weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.

        Raises:
          TypeError: If the domain is no integer.
          ValueError: If it is no scalar, or known while tracing and out of range.
        """
        domain = check_index(domain, "domain", self.num_domains)
        return self._run_at(domain, x, use_running_average, mask)
