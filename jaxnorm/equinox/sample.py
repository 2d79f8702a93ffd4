"""Per-example norms as Equinox modules."""

from typing import Any

from jaxnorm._layers import group, rms, sample
from jaxnorm.equinox.module import SampleModule, UnmaskedModule

__all__ = [
    "CausalGroupNorm",
    "GatedRMSNorm",
    "GroupNorm",
    "InstanceNorm",
    "LayerNorm",
    "RMSNorm",
    "ReversibleInstanceNorm",
    "SeedNorm",
    "UnitNorm",
]


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

    _description = rms.RMSNorm


class GatedRMSNorm(SampleModule):
    """Root mean square norm with a gate; see `jaxnorm.gated_rms_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.GatedRMSNorm(2)
      >>> norm(jnp.array([[3.0, -3.0]]), jnp.array([[0.0, 1.0]])).round(3)
      Array([[ 0.   , -0.731]], dtype=float32)
    """

    _description = rms.GatedRMSNorm
    __call__ = rms.GatedRMSNorm.__call__  # type: ignore[assignment]


class SeedNorm(SampleModule):
    """Self-rescaled dynamic normalization; see `jaxnorm.seed_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.equinox
      >>> init = jax.nn.initializers.constant(0.5)
      >>> norm = jaxnorm.equinox.SeedNorm(2, beta_init=init)
      >>> norm(jnp.array([[3.0, 3.0]])).round(2)
      Array([[2., 2.]], dtype=float32)
    """

    _description = rms.SeedNorm


class GroupNorm(SampleModule):
    """Group norm; see `jaxnorm.group_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.GroupNorm(4, num_groups=2)
      >>> norm(jnp.array([[1.0, 3.0, 10.0, 30.0]])).round(3)
      Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    _description = group.GroupNorm


class CausalGroupNorm(SampleModule):
    """Causal group norm; returns y and the moments for the next chunk.

    See `jaxnorm.causal_group_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> x = jnp.array([[[0.0, 2.0], [2.0, 0.0], [6.0, 2.0]]])  # batch, time, features
      >>> norm = jaxnorm.equinox.CausalGroupNorm(2)
      >>> first, moments = norm(x[:, :2])
      >>> rest, moments = norm(x[:, 2:], moments)
      >>> rest.round(3)
      Array([[[2., 0.]]], dtype=float32)
    """

    _description = group.CausalGroupNorm
    __call__ = group.CausalGroupNorm.__call__  # type: ignore[assignment]


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
    """Reversible instance norm; returns y and its inverse.

    See `jaxnorm.reversible_instance_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.ReversibleInstanceNorm(1)
      >>> y, undo = norm(jnp.array([[[1.0], [3.0]]]))
      >>> undo(y).ravel().astype(int)
      Array([1, 3], dtype=int32)
    """

    _description = sample.ReversibleInstanceNorm


class UnitNorm(UnmaskedModule):
    """Divides vectors by their length; see `jaxnorm.unit_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.UnitNorm()
      >>> norm(jnp.array([[3.0, 4.0]])).round(3)
      Array([[0.6, 0.8]], dtype=float32)
    """

    _description = rms.UnitNorm

    def __init__(self, **fields: Any) -> None:
        super().__init__((), **fields)  # type: ignore[arg-type]
