"""Mixtures of batch norm and per-example norms as Flax Linen modules."""

from jaxnorm._layers import hybrid as layers
from jaxnorm.linen.module import BatchModule

__all__ = ["BatchInstanceNorm", "InstanceBatchNorm", "SwitchableNorm"]


class BatchInstanceNorm(BatchModule, layers.BatchInstanceNorm):
    """A learned mixture of batch norm and instance norm for each feature.

    It computes `jaxnorm.batch_instance_norm`. Variables: `params`: scale, bias and
    gate; `batch_stats`: mean, var. Keep the gate in [0, 1] with
    `optax.chain(..., jaxnorm.gate_projection())`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.BatchInstanceNorm(momentum=0.5)
      >>> x = jnp.array([[[1.0], [3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> variables["params"]["gate"], updates["batch_stats"]["mean"]
      (Array([1.], dtype=float32), Array([1.], dtype=float32))
    """


class InstanceBatchNorm(BatchModule, layers.InstanceBatchNorm):
    """Instance norm for some features and batch norm for the others (IBN-Net).

    It computes `jaxnorm.instance_batch_norm`. Variables: `params`: scale and bias of
    all features; `batch_stats`: mean and var of the features with batch norm.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.InstanceBatchNorm(momentum=0.5)
      >>> x = jnp.array([[[1.0, 1.0], [3.0, 3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"]
      Array([1.], dtype=float32)
    """


class SwitchableNorm(BatchModule, layers.SwitchableNorm):
    """A learned mixture of instance, layer and batch statistics.

    It computes `jaxnorm.switchable_norm`. Variables: `params`: scale, bias, mean_logits
    and var_logits; `batch_stats`: mean, var.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.SwitchableNorm(momentum=0.5)
      >>> x = jnp.array([[[1.0], [3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> variables["params"]["mean_logits"], updates["batch_stats"]["mean"]
      (Array([1., 1., 1.], dtype=float32), Array([1.], dtype=float32))
    """
