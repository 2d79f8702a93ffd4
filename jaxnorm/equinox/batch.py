"""Batch normalization and its variants as Equinox modules."""

from jaxnorm._layers import batch
from jaxnorm.equinox.module import BatchInputModule

__all__ = [
    "AdaptiveBatchNorm",
    "BatchNorm",
    "BatchRenorm",
    "EvoNormB0",
    "GhostBatchNorm",
    "MeanOnlyBatchNorm",
    "RunningNorm",
]


class BatchNorm(BatchInputModule, init=False):
    """Batch norm; see `jaxnorm.batch_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.BatchNorm)(
      ...     2, momentum=0.5
      ... )
      >>> y, state = norm(jnp.array([[1.0, 10.0], [3.0, 30.0]]), state)
      >>> state.get(norm.stats).mean
      Array([ 1., 10.], dtype=float32)
    """

    _description = batch.BatchNorm


class GhostBatchNorm(BatchInputModule, init=False):
    """Ghost batch norm; see `jaxnorm.ghost_batch_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.GhostBatchNorm)(
      ...     1, virtual_batch_size=2
      ... )
      >>> y, state = norm(jnp.array([[1.0], [3.0], [10.0], [30.0]]), state)
      >>> y[:, 0].round(3)
      Array([-1.,  1., -1.,  1.], dtype=float32)
    """

    _description = batch.GhostBatchNorm


class AdaptiveBatchNorm(BatchInputModule, init=False):
    """Instance-aware batch norm; see `jaxnorm.adaptive_batch_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.AdaptiveBatchNorm)(1)
      >>> y, state = norm(jnp.array([[[1.0], [3.0]]]), state)
      >>> y.round(3).ravel()
      Array([-1.,  1.], dtype=float32)
    """

    _description = batch.AdaptiveBatchNorm


class BatchRenorm(BatchInputModule, init=False):
    """Batch renormalization; see `jaxnorm.batch_renorm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.BatchRenorm)(
      ...     1, r_max=1.0, d_max=0.0
      ... )
      >>> y, state = norm(jnp.array([[1.0], [3.0]]), state)
      >>> state.get(norm.stats).count
      Array(1., dtype=float32)
    """

    _description = batch.BatchRenorm


class MeanOnlyBatchNorm(BatchInputModule, init=False):
    """Mean-only batch norm; see `jaxnorm.mean_only_batch_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.MeanOnlyBatchNorm)(1)
      >>> y, state = norm(jnp.array([[1.0], [3.0]]), state)
      >>> y.ravel()
      Array([-1.,  1.], dtype=float32)
    """

    _description = batch.MeanOnlyBatchNorm


class EvoNormB0(BatchInputModule, init=False):
    """EvoNorm B0; see `jaxnorm.evo_norm_b0`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.EvoNormB0)(
      ...     1, momentum=0.0
      ... )
      >>> y, state = norm(jnp.array([[[1.0], [3.0]]]), state)
      >>> state.get(norm.stats).var
      Array([1.], dtype=float32)
    """

    _description = batch.EvoNormB0


class RunningNorm(BatchInputModule, init=False):
    """Normalizes by the moments of all inputs so far; see `jaxnorm.running_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.RunningNorm)(1)
      >>> y, state = norm(jnp.array([[1.0], [3.0]]), state)
      >>> state.get(norm.stats).mean
      Array([2.], dtype=float32)
    """

    _description = batch.RunningNorm
