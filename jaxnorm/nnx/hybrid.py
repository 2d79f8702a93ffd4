"""Mixtures of batch norm and per-example norms as Flax NNX modules."""

from jaxnorm._layers import hybrid as layers
from jaxnorm.nnx.batch_module import BatchModule
from jaxnorm.nnx.variables import Parameter, created

__all__ = ["BatchInstanceNorm", "InstanceBatchNorm", "SwitchableNorm"]


class BatchInstanceNorm(BatchModule, layers.BatchInstanceNorm):
    """A learned mixture of batch norm and instance norm for each feature.

    It computes `jaxnorm.batch_instance_norm`. Variables: `nnx.Param`: scale, bias and
    gate; `nnx.BatchStat`: mean, var. Keep the gate in [0, 1] with `optax.chain(...,
    jaxnorm.gate_projection())`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.BatchInstanceNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[[1.0], [3.0]]]))
      >>> norm.gate[...], norm.mean[...]
      (Array([1.], dtype=float32), Array([1.], dtype=float32))
    """

    gate: Parameter = created()


class InstanceBatchNorm(BatchModule, layers.InstanceBatchNorm):
    """Instance norm for some features and batch norm for the others (IBN-Net).

    It computes `jaxnorm.instance_batch_norm`. Variables: `nnx.Param`: scale and bias of
    all features; `nnx.BatchStat`: mean and var of the features with batch norm.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.InstanceBatchNorm(2, momentum=0.5, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[[1.0, 1.0], [3.0, 3.0]]]))
      >>> norm.mean[...]
      Array([1.], dtype=float32)
    """


class SwitchableNorm(BatchModule, layers.SwitchableNorm):
    """A learned mixture of instance, layer and batch statistics.

    It computes `jaxnorm.switchable_norm`. Variables: `nnx.Param`: scale, bias,
    mean_logits and var_logits; `nnx.BatchStat`: mean, var.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.SwitchableNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[[1.0], [3.0]]]))
      >>> norm.mean_logits[...], norm.mean[...]
      (Array([1., 1., 1.], dtype=float32), Array([1.], dtype=float32))
    """

    mean_logits: Parameter = created()
    var_logits: Parameter = created()
