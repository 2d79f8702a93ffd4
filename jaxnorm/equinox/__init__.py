"""Normalizers as Equinox modules, over the functions of `jaxnorm`.

A module normalizes a batch, not an example under `jax.vmap`; features are the last axis
unless told otherwise. Running statistics live in an `equinox.nn.State`, as those of
`equinox.nn.BatchNorm` do.
"""

from typing import Any

import equinox as eqx
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Shaped

from jaxnorm._layers import batch, hybrid, recurrent, sample
from jaxnorm.core.validation import check_index
from jaxnorm.equinox.module import (
    BatchInputModule,
    BatchModule,
    SampleModule,
)


class BatchNorm(BatchInputModule):
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


class GhostBatchNorm(BatchInputModule):
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


class AdaptiveBatchNorm(BatchInputModule):
    """Instance-aware batch norm; see `jaxnorm.adaptive_batch_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.AdaptiveBatchNorm)(1)
      >>> y, state = norm(jnp.array([[[1.0], [3.0]]]), state)
      >>> y.round(3).ravel()
      Array([-1.,  1.], dtype=float32)
    """

    _description = batch.AdaptiveBatchNorm


class BatchRenorm(BatchInputModule):
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


class MeanOnlyBatchNorm(BatchInputModule):
    """Subtracts the batch's mean; see `jaxnorm.mean_only_batch_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.MeanOnlyBatchNorm)(1)
      >>> y, state = norm(jnp.array([[1.0], [3.0]]), state)
      >>> y.ravel()
      Array([-1.,  1.], dtype=float32)
    """

    _description = batch.MeanOnlyBatchNorm


class EvoNormB0(BatchInputModule):
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


class RunningNorm(BatchInputModule):
    """Normalizes a stream; see `jaxnorm.running_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.RunningNorm)(1)
      >>> y, state = norm(jnp.array([[1.0], [3.0]]), state)
      >>> state.get(norm.stats).mean
      Array([2.], dtype=float32)
    """

    _description = batch.RunningNorm


class BatchInstanceNorm(BatchInputModule):
    """A mixture for each feature; see `jaxnorm.batch_instance_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.BatchInstanceNorm)(1)
      >>> y, state = norm(jnp.array([[[1.0], [3.0]]]), state)
      >>> norm.params["gate"]
      Array([1.], dtype=float32)
    """

    _description = hybrid.BatchInstanceNorm


class InstanceBatchNorm(BatchInputModule):
    """Each for half of the features; see `jaxnorm.instance_batch_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.InstanceBatchNorm)(2)
      >>> y, state = norm(jnp.array([[[1.0, 1.0], [3.0, 3.0]]]), state)
      >>> state.get(norm.stats).mean.shape
      (1,)
    """

    _description = hybrid.InstanceBatchNorm


class SwitchableNorm(BatchInputModule):
    """A mixture of three norms; see `jaxnorm.switchable_norm`.

    Example:
      >>> import equinox as eqx, jax.numpy as jnp, jaxnorm.equinox
      >>> norm, state = eqx.nn.make_with_state(jaxnorm.equinox.SwitchableNorm)(1)
      >>> y, state = norm(jnp.array([[[1.0], [3.0]]]), state)
      >>> norm.params["mean_logits"]
      Array([1., 1., 1.], dtype=float32)
    """

    _description = hybrid.SwitchableNorm


class RecurrentBatchNorm(BatchModule):
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
          step: Index of the time step, from 0; those beyond the last use the last.
          state: The state of the model.
          mask: Which elements count, or their weights; see `jaxnorm.batch_norm`.
          inference: In place of the attribute.

        Returns:
          The normalized input, of the shape of x, and the new state.
        """
        return self._normalize(x, state, mask, inference, step=step)


class DomainBatchNorm(BatchModule):
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
          domain: Index of the domain in [0, num_domains); an integer scalar.
          state: The state of the model.
          mask: Which elements count, or their weights; see `jaxnorm.batch_norm`.
          inference: In place of the attribute.

        Returns:
          The normalized input, of the shape of x, and the new state.
        """
        domain = check_index(domain, "domain", self._layer.num_domains)
        return self._normalize(x, state, mask, inference, step=domain)


class LayerNorm(SampleModule):
    """Layer norm; see `jaxnorm.layer_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.LayerNorm(2)
      >>> norm(jnp.array([[1.0, 3.0]])).round(3)
      Array([[-1.,  1.]], dtype=float32)
    """

    _description = sample.LayerNorm


class RMSNorm(SampleModule):
    """Root mean square norm; see `jaxnorm.rms_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.RMSNorm(2, scale_offset=1.0)
      >>> norm(jnp.array([[3.0, -3.0]])).round(3)
      Array([[ 1., -1.]], dtype=float32)
    """

    _description = sample.RMSNorm


class GatedRMSNorm(SampleModule):
    """Root mean square norm with a gate; see `jaxnorm.gated_rms_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.GatedRMSNorm(2)
      >>> norm(jnp.array([[3.0, -3.0]]), jnp.array([[0.0, 1.0]])).round(3)
      Array([[ 0.   , -0.731]], dtype=float32)
    """

    _description = sample.GatedRMSNorm

    def __call__(  # type: ignore[override]
        self,
        x: Shaped[Array, "..."],
        gate: Shaped[Array, "..."],
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes and gates x.

        Args:
          x: Input of any shape.
          gate: What the activation is taken of, of the shape of x; real.
          mask: Which elements count, or their weights; see `jaxnorm.gated_rms_norm`.

        Returns:
          The normalized and gated input, of the shape of x.
        """
        return self._normalize(x, mask, gate=gate)


class GroupNorm(SampleModule):
    """Group norm; see `jaxnorm.group_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.GroupNorm(4, num_groups=2)
      >>> norm(jnp.array([[1.0, 3.0, 10.0, 30.0]])).round(3)
      Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    _description = sample.GroupNorm


class InstanceNorm(SampleModule):
    """Instance norm; see `jaxnorm.instance_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.InstanceNorm(1)
      >>> norm(jnp.array([[[1.0], [3.0]]])).round(3).ravel()
      Array([-1.,  1.], dtype=float32)
    """

    _description = sample.InstanceNorm


class ReversibleInstanceNorm(SampleModule):
    """Returns y and the way back; see `jaxnorm.reversible_instance_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.ReversibleInstanceNorm(1)
      >>> y, undo = norm(jnp.array([[[1.0], [3.0]]]))
      >>> undo(y).ravel().astype(int)
      Array([1, 3], dtype=int32)
    """

    _description = sample.ReversibleInstanceNorm


class FilterResponseNorm(SampleModule):
    """Filter response norm; see `jaxnorm.filter_response_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.FilterResponseNorm(1)
      >>> norm(jnp.array([[[3.0], [-3.0]]])).round(3).ravel()
      Array([1., 0.], dtype=float32)
    """

    _description = sample.FilterResponseNorm


class GlobalResponseNorm(SampleModule):
    """Global response norm; see `jaxnorm.global_response_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.GlobalResponseNorm(2)
      >>> norm(jnp.array([[[3.0, 1.0], [4.0, 0.0]]])).ravel()
      Array([3., 1., 4., 0.], dtype=float32)
    """

    _description = sample.GlobalResponseNorm


class EvoNormS0(SampleModule):
    """EvoNorm-S0; see `jaxnorm.evo_norm_s0`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.EvoNormS0(2, num_groups=1)
      >>> norm(jnp.array([[1.0, 3.0]])).round(1)
      Array([[0.7, 2.9]], dtype=float32)
    """

    _description = sample.EvoNormS0


class DynamicTanh(SampleModule):
    """Dynamic tanh; see `jaxnorm.dynamic_tanh`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.DynamicTanh(2)
      >>> norm(jnp.array([[0.0, 2.0]])).round(3)
      Array([[0.   , 0.762]], dtype=float32)
    """

    _description = sample.DynamicTanh

    def __call__(  # type: ignore[override]
        self, x: Shaped[Array, "..."], *, key: Any = None
    ) -> Array:
        """Squashes x; the key is ignored, for `equinox.nn.Sequential`."""
        del key
        return self._normalize(x)


class UnitNorm(SampleModule):
    """Vectors of length 1; see `jaxnorm.unit_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.UnitNorm()
      >>> norm(jnp.array([[3.0, 4.0]])).round(3)
      Array([[0.6, 0.8]], dtype=float32)
    """

    _description = sample.UnitNorm

    def __init__(self, **fields: Any) -> None:
        super().__init__((), **fields)  # type: ignore[arg-type]

    def __call__(  # type: ignore[override]
        self, x: Shaped[Array, "..."], *, key: Any = None
    ) -> Array:
        """Divides x by its length; the key is ignored, for `equinox.nn.Sequential`."""
        del key
        return self._normalize(x)


__all__ = [
    "AdaptiveBatchNorm",
    "BatchInstanceNorm",
    "BatchNorm",
    "BatchRenorm",
    "DomainBatchNorm",
    "DynamicTanh",
    "EvoNormB0",
    "EvoNormS0",
    "FilterResponseNorm",
    "GatedRMSNorm",
    "GhostBatchNorm",
    "GlobalResponseNorm",
    "GroupNorm",
    "InstanceBatchNorm",
    "InstanceNorm",
    "LayerNorm",
    "MeanOnlyBatchNorm",
    "RMSNorm",
    "RecurrentBatchNorm",
    "ReversibleInstanceNorm",
    "RunningNorm",
    "SwitchableNorm",
    "UnitNorm",
]
