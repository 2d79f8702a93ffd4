"""Batch normalization and its variants as Flax NNX modules."""

from jaxnorm._layers import batch as layers
from jaxnorm.nnx.batch_module import BatchModule
from jaxnorm.nnx.variables import Parameter, Statistic, created

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
    """Batch normalization with running statistics.

    A drop-in superset of `flax.nnx.BatchNorm`: the same arguments, defaults and
    variables (`nnx.Param`: scale, bias; `nnx.BatchStat`: mean, var), so that its
    checkpoints load unchanged. It computes `jaxnorm.batch_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
      >>> norm = jaxnorm.nnx.BatchNorm(2, momentum=0.0, rngs=nnx.Rngs(0))
      >>> y = norm(x)
      >>> norm.mean[...]
      Array([ 2., 20.], dtype=float32)
      >>> norm.eval()
      >>> norm(x).round(3)
      Array([[-1., -1.],
             [ 1.,  1.]], dtype=float32)
    """


class GhostBatchNorm(BatchModule, layers.GhostBatchNorm):
    """Ghost batch norm, computed by `jaxnorm.ghost_batch_norm`.

    It has the variables of batch norm, so checkpoints are interchangeable.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.GhostBatchNorm(
      ...     1, virtual_batch_size=2, momentum=0.0, rngs=nnx.Rngs(0)
      ... )
      >>> y = norm(jnp.array([[1.0], [3.0], [10.0], [30.0]]))
      >>> y[:, 0].round(3), norm.mean[...]
      (Array([-1.,  1., -1.,  1.], dtype=float32), Array([11.], dtype=float32))
    """


class AdaptiveBatchNorm(BatchModule, layers.AdaptiveBatchNorm):
    """Instance-aware batch norm, computed by `jaxnorm.adaptive_batch_norm`.

    It has the variables of batch norm, so checkpoints are interchangeable.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.AdaptiveBatchNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[[1.0], [3.0]], [[1.0], [3.0]]]))
      >>> norm.mean[...]
      Array([1.], dtype=float32)
    """


class BatchRenorm(BatchModule, layers.BatchRenorm):
    """Batch renormalization, computed by `jaxnorm.batch_renorm`.

    Variables: `nnx.Param`: scale, bias; `nnx.BatchStat`: mean, std, and count, the
    number of updates.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> bounds = jaxnorm.warmup_renorm(start=100, r_end=1_000, d_end=500)
      >>> norm = jaxnorm.nnx.BatchRenorm(
      ...     1, **bounds._asdict(), momentum=0.5, rngs=nnx.Rngs(0)
      ... )
      >>> y = norm(jnp.array([[1.0], [3.0]]))
      >>> norm.mean[...], norm.count[...]
      (Array([1.], dtype=float32), Array(1., dtype=float32))
    """

    std: Statistic = created()


class MeanOnlyBatchNorm(BatchModule, layers.MeanOnlyBatchNorm):
    """Subtracts the mean of the batch; the companion of `WeightNorm`.

    It computes `jaxnorm.mean_only_batch_norm`. Variables: `nnx.Param`: bias;
    `nnx.BatchStat`: mean.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.MeanOnlyBatchNorm(1, momentum=0.5, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[1.0], [3.0]]))
      >>> y[:, 0], norm.mean[...]
      (Array([-1.,  1.], dtype=float32), Array([1.], dtype=float32))
    """


class EvoNormB0(BatchModule, layers.EvoNormB0):
    """Normalization by batch and instance statistics combined with an activation.

    It computes `jaxnorm.evo_norm_b0`. Variables: `nnx.Param`: scale, bias and v;
    `nnx.BatchStat`: var. No activation should follow.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.EvoNormB0(1, momentum=0.0, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[[1.0], [3.0]]]))
      >>> norm.var[...]
      Array([1.], dtype=float32)
    """

    v: Parameter = created()


class RunningNorm(BatchModule, layers.RunningNorm):
    """Normalizes by the moments of all inputs so far, such as observations.

    It computes `jaxnorm.running_norm`, with `update=True` if `use_running_average` is
    False. Variables: `nnx.BatchStat`: the fields of `jaxnorm.RunningMoments`, which are
    count, mean, var and their low-order parts count_rest, mean_rest, var_rest. It has
    no parameters.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.RunningNorm(1, max_abs=10.0, rngs=nnx.Rngs(0))
      >>> y = norm(jnp.array([[1.0], [3.0]]))
      >>> y.ravel(), norm.mean[...]
      (Array([-1.,  1.], dtype=float32), Array([2.], dtype=float32))
    """

    mean_rest: Statistic = created()
