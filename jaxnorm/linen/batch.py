"""Batch normalization and its variants as Flax Linen modules."""

from typing import Any

from jax import Array

from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._layers import batch as layers
from jaxnorm._layers.fields import Arrays
from jaxnorm.linen.module import BatchModule

__all__ = [
    "AdaptiveBatchNorm",
    "BatchNorm",
    "BatchRenorm",
    "EvoNormB0",
    "GhostBatchNorm",
    "MeanOnlyBatchNorm",
    "RunningNorm",
]


class BatchNorm(BatchModule, layers.BatchNorm):
    """Batch normalization with running statistics in the `batch_stats` collection.

    A drop-in superset of `flax.linen.BatchNorm`: the same arguments, defaults, variable
    tree (`params`: scale, bias; `batch_stats`: mean, var) and initialization, so that
    its checkpoints load unchanged. It computes `jaxnorm.batch_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
      >>> norm = jaxnorm.linen.BatchNorm(momentum=0.5)
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"]
      Array([ 1., 10.], dtype=float32)
    """


class GhostBatchNorm(BatchModule, layers.GhostBatchNorm):
    """Ghost batch norm, computed by `jaxnorm.ghost_batch_norm`.

    It has the variables of batch norm, so checkpoints are interchangeable.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.GhostBatchNorm(virtual_batch_size=2, momentum=0.0)
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> y[:, 0].round(3), updates["batch_stats"]["mean"]
      (Array([-1.,  1., -1.,  1.], dtype=float32), Array([11.], dtype=float32))
    """

    def _forward(
        self, x: Array, stats: Any, params: Arrays, options: BatchOptions
    ) -> tuple[Array, Any]:
        """Normalizes x; initialization accepts any batch size."""
        if self.is_initializing():  # the batch size need not fit the ghosts
            options["use_running_average"] = True
        return super()._forward(x, stats, params, options)


class AdaptiveBatchNorm(BatchModule, layers.AdaptiveBatchNorm):
    """Instance-aware batch norm, computed by `jaxnorm.adaptive_batch_norm`.

    It has the variables of batch norm, so checkpoints are interchangeable.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.AdaptiveBatchNorm(strength=4.0, momentum=0.5)
      >>> x = jnp.array([[[1.0], [3.0]], [[1.0], [3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"]
      Array([1.], dtype=float32)
    """


class BatchRenorm(BatchModule, layers.BatchRenorm):
    """Batch renormalization, computed by `jaxnorm.batch_renorm`.

    Variables: `params`: scale, bias; `batch_stats`: mean, std, and count, the number of
    updates. Momentum and the two bounds may be functions of the count.

    The default bounds are the final values of the paper's schedule. The schedule
    itself, which starts with plain batch norm, is
    `**jaxnorm.warmup_renorm()._asdict()`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> bounds = jaxnorm.warmup_renorm(start=100, r_end=1_000, d_end=500)
      >>> norm = jaxnorm.linen.BatchRenorm(**bounds._asdict(), momentum=0.5)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["mean"], updates["batch_stats"]["count"]
      (Array([1.], dtype=float32), Array(1., dtype=float32))
    """


class MeanOnlyBatchNorm(BatchModule, layers.MeanOnlyBatchNorm):
    """Subtracts the mean of the batch; the companion of `WeightNorm`.

    It computes `jaxnorm.mean_only_batch_norm`. Variables: `params`: bias;
    `batch_stats`: mean.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.MeanOnlyBatchNorm(momentum=0.5)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> y[:, 0], updates["batch_stats"]["mean"]
      (Array([-1.,  1.], dtype=float32), Array([1.], dtype=float32))
    """


class EvoNormB0(BatchModule, layers.EvoNormB0):
    """Normalization by batch and instance statistics combined with an activation.

    It computes `jaxnorm.evo_norm_b0`. Variables: `params`: scale, bias and v;
    `batch_stats`: var. No activation should follow.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.EvoNormB0(momentum=0.0)
      >>> x = jnp.array([[[1.0], [3.0]]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> updates["batch_stats"]["var"]
      Array([1.], dtype=float32)
    """


class RunningNorm(BatchModule, layers.RunningNorm):
    """Normalizes by the moments of all inputs so far, such as observations.

    It computes `jaxnorm.running_norm`, with `update=True` if `use_running_average` is
    False. Variables: `batch_stats`: the fields of `jaxnorm.RunningMoments`, which are
    count, mean, var and their low-order parts count_rest, mean_rest, var_rest. It has
    no parameters.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> norm = jaxnorm.linen.RunningNorm(max_abs=10.0)
      >>> x = jnp.array([[1.0], [3.0]])
      >>> variables = norm.init(jax.random.key(0), x, use_running_average=True)
      >>> y, updates = norm.apply(
      ...     variables, x, use_running_average=False, mutable=["batch_stats"]
      ... )
      >>> y.ravel(), updates["batch_stats"]["mean"]
      (Array([-1.,  1.], dtype=float32), Array([2.], dtype=float32))
    """
