"""Layers with several sets of running statistics; a call selects among them."""

import dataclasses
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Shaped

import jaxnorm
from jaxnorm._core.arguments.validation import check_integer
from jaxnorm._layers.batch_layer import BatchLayer
from jaxnorm._layers.fields import description
from jaxnorm.batch.batch_norm_by_index import check_indices, moments_by_index


@description
class IndexedBatchNorm(BatchLayer):
    """Batch norm with statistics along a leading axis: time steps, domains.

    Its options include the index, as `step`. One beyond the last means the last.
    """

    _function = staticmethod(jaxnorm.recurrent_batch_norm)

    def _number_of_sets(self) -> int:
        """Returns the size of the leading axis."""
        raise NotImplementedError

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        return jaxnorm.init_recurrent_stats(
            self._number_of_sets(), features, self._stats_dtype, counted=counted
        )

    def _moments(self, x: Array, options: Any) -> jaxnorm.Moments:
        """Returns the moments of each index; count 0 for an index without examples."""
        number, options = self._number_of_sets(), dict(options)
        index = jnp.asarray(options.pop("step"))
        if index.ndim:
            index = jnp.clip(index, 0, number - 1)
            return moments_by_index(x, number, index, options)
        here = jnp.clip(index, 0, number - 1)

        def alone(leaf: Array) -> Array:
            # count 0 elsewhere, so that nothing changes there
            return jnp.zeros((number, *leaf.shape), leaf.dtype).at[here].set(leaf)

        return jax.tree.map(alone, super()._moments(x, options))


@description
class RecurrentBatchNorm(IndexedBatchNorm):
    """Batch norm inside a recurrent cell, with statistics for each time step.

    Attributes:
      max_steps: Number of time steps with their own statistics, at least 1; later steps
        use the last ones.
    """

    max_steps: int = dataclasses.field(kw_only=True)

    def __call__(  # type: ignore[override]
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
          mask: Selects the elements of sequences that have not ended; see
            `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        return self._normalize(x, use_running_average, mask, step=step)

    def _number_of_sets(self) -> int:
        return self.max_steps


@description
class DomainBatchNorm(IndexedBatchNorm):
    """Batch norm with statistics for each domain.

    Attributes:
      num_domains: Number of domains, at least 1.
    """

    num_domains: int = dataclasses.field(kw_only=True)

    def __call__(  # type: ignore[override]
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
            array with one for each example, which then uses only the statistics of its
            domain. A traced index that is out of range raises no error: it counts as
            the last, and `checkify.checkify(f, errors=checkify.index_checks)` reports
            it if it is a scalar.
          use_running_average: False in training, True in inference.
          mask: Selects valid elements, or gives weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.

        Raises:
          TypeError: If the domain is not an integer.
          ValueError: If it is of another shape, or known while tracing and out of
            range.
        """
        domain = check_indices(domain, "domain", x, self._number_of_sets())
        return self._normalize(x, use_running_average, mask, step=domain)

    def _number_of_sets(self) -> int:
        if check_integer(self.num_domains, "num_domains") < 1:
            raise ValueError(f"num_domains must be at least 1, got {self.num_domains}.")
        return self.num_domains
