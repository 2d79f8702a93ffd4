"""Batch norm with statistics per time step or per domain as Equinox modules."""

import equinox as eqx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxnorm._layers import recurrent
from jaxnorm.batch.batch_norm_by_index import check_indices
from jaxnorm.equinox.module import BatchModule

__all__ = ["DomainBatchNorm", "RecurrentBatchNorm"]


class RecurrentBatchNorm(BatchModule, init=False):
    """Batch norm for each time step; see `jaxnorm.recurrent_batch_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.RecurrentBatchNorm)(
      ...     1, max_steps=2, momentum=0.5
      ... )
      >>> y, state = norm(jnp.array([[1.0], [3.0]]), 1, state)
      >>> state.get(norm.stats).mean.ravel()
      Array([0., 1.], dtype=float32)
    """

    _description = recurrent.RecurrentBatchNorm

    def __call__(
        self,
        x: Shaped[Array, "batch ..."],
        step: ArrayLike,
        state: eqx.nn.State,
        *,
        mask: Shaped[Array, "..."] | None = None,
        inference: bool | None = None,
    ) -> tuple[Array, eqx.nn.State]:
        """Normalizes x.

        Args:
          x: Input of shape (batch, ...).
          step: Index of the time step, from 0; later steps than the last use the last.
          state: The state of the model.
          mask: Selects valid elements, or gives weights; see `jaxnorm.batch_norm`.
          inference: Overrides the attribute of this name.

        Returns:
          The normalized input, of the shape of x, and the new state.
        """
        return self._normalize(x, state, mask, inference, step=step)


class DomainBatchNorm(BatchModule, init=False):
    """Batch norm with statistics for each domain.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.DomainBatchNorm)(
      ...     1, num_domains=2, momentum=0.5
      ... )
      >>> y, state = norm(jnp.array([[1.0], [3.0]]), 1, state)
      >>> state.get(norm.stats).mean.ravel()
      Array([0., 1.], dtype=float32)
    """

    _description = recurrent.DomainBatchNorm

    def __call__(
        self,
        x: Shaped[Array, "batch ..."],
        domain: ArrayLike,
        state: eqx.nn.State,
        *,
        mask: Shaped[Array, "..."] | None = None,
        inference: bool | None = None,
    ) -> tuple[Array, eqx.nn.State]:
        """Normalizes x.

        Args:
          x: Input of shape (batch, ...).
          domain: Index of the domain in [0, num_domains): an integer scalar, or an
            array with one for each example.
          state: The state of the model.
          mask: Selects valid elements, or gives weights; see `jaxnorm.batch_norm`.
          inference: Overrides the attribute of this name.

        Returns:
          The normalized input, of the shape of x, and the new state.
        """
        domain = check_indices(domain, "domain", x, self._layer.num_domains)
        return self._normalize(x, state, mask, inference, step=domain)
