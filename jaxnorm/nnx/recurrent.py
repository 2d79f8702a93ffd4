"""Batch norm with statistics per time step or per domain as Flax NNX modules."""

from jaxnorm._layers import recurrent as layers
from jaxnorm.nnx.batch_module import BatchModule

__all__ = ["DomainBatchNorm", "RecurrentBatchNorm"]


class RecurrentBatchNorm(BatchModule, layers.RecurrentBatchNorm):
    """Batch norm inside a recurrent cell, with statistics for each time step.

    It computes `jaxnorm.recurrent_batch_norm`. Variables: `nnx.Param`: scale and bias,
    shared over time; `nnx.BatchStat`: mean, var, with a leading axis of time steps. In
    `nnx.scan` they are carried: `nnx.StateAxes({nnx.BatchStat: nnx.Carry, ...: None})`.

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


class DomainBatchNorm(BatchModule, layers.DomainBatchNorm):
    """Batch norm with separate statistics for each domain, chosen in the call.

    `jaxnorm.linen.DomainBatchNorm` explains when to use it, and has the references.
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
