"""Mixtures of batch norm and per-example norms as Equinox modules."""

from jaxnorm._layers import hybrid
from jaxnorm.equinox.module import BatchInputModule

__all__ = ["BatchInstanceNorm", "InstanceBatchNorm", "SwitchableNorm"]


class BatchInstanceNorm(BatchInputModule, init=False):
    """Batch-instance norm; see `jaxnorm.batch_instance_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.BatchInstanceNorm)(1)
      >>> y, state = norm(jnp.array([[[1.0], [3.0]]]), state)
      >>> norm.params["gate"]
      Array([1.], dtype=float32)
    """

    _description = hybrid.BatchInstanceNorm


class InstanceBatchNorm(BatchInputModule, init=False):
    """Instance-batch norm (IBN-Net); see `jaxnorm.instance_batch_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.InstanceBatchNorm)(2)
      >>> y, state = norm(jnp.array([[[1.0, 1.0], [3.0, 3.0]]]), state)
      >>> state.get(norm.stats).mean.shape
      (1,)
    """

    _description = hybrid.InstanceBatchNorm


class SwitchableNorm(BatchInputModule, init=False):
    """Switchable norm; see `jaxnorm.switchable_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.SwitchableNorm)(1)
      >>> y, state = norm(jnp.array([[[1.0], [3.0]]]), state)
      >>> norm.params["mean_logits"]
      Array([1., 1., 1.], dtype=float32)
    """

    _description = hybrid.SwitchableNorm
