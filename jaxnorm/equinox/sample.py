"""Per-example norms as Equinox modules."""

from typing import Any

from jax import Array
from jaxtyping import Inexact, PRNGKeyArray, Shaped

import jaxnorm
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


class LayerNorm(SampleModule, init=False):
    """Layer norm; see `jaxnorm.layer_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.LayerNorm(2)
      >>> norm(jnp.array([[1.0, 3.0]])).round(3)
      Array([[-1.,  1.]], dtype=float32)
    """

    _description = sample.LayerNorm


class RMSNorm(SampleModule, init=False):
    """Root mean square norm; see `jaxnorm.rms_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.RMSNorm(2, scale_offset=1.0)
      >>> norm(jnp.array([[3.0, -3.0]])).round(3)
      Array([[ 1., -1.]], dtype=float32)
    """

    _description = rms.RMSNorm


class GatedRMSNorm(SampleModule, init=False):
    """Root mean square norm with a gate; see `jaxnorm.gated_rms_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.GatedRMSNorm(2)
      >>> norm(jnp.array([[3.0, -3.0]]), jnp.array([[0.0, 1.0]])).round(3)
      Array([[ 0.   , -0.731]], dtype=float32)
    """

    _description = rms.GatedRMSNorm

    def __call__(  # type: ignore[override]
        self,
        x: Inexact[Array, "..."],
        gate: Inexact[Array, "..."],
        *,
        mask: Shaped[Array, "..."] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """Normalizes and gates x.

        Args:
          x: Input of any shape.
          gate: Input of the activation, of the shape of x; real.
          mask: Selects valid elements, or gives weights; see `jaxnorm.layer_norm`.
          key: Ignored.

        Returns:
          The normalized and gated input, of the shape of x.
        """
        del key
        return self._normalize(x, mask, gate=gate)


class SeedNorm(SampleModule, init=False):
    """Self-rescaled dynamic normalization; see `jaxnorm.seed_norm`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.equinox
      >>> init = jax.nn.initializers.constant(0.5)
      >>> norm = jaxnorm.equinox.SeedNorm(2, beta_init=init)
      >>> norm(jnp.array([[3.0, 3.0]])).round(2)
      Array([[2., 2.]], dtype=float32)
    """

    _description = rms.SeedNorm


class GroupNorm(SampleModule, init=False):
    """Group norm; see `jaxnorm.group_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.GroupNorm(4, num_groups=2)
      >>> norm(jnp.array([[1.0, 3.0, 10.0, 30.0]])).round(3)
      Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    _description = group.GroupNorm


class CausalGroupNorm(SampleModule, init=False):
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

    def __call__(  # type: ignore[override]
        self,
        x: Inexact[Array, "..."],
        moments: jaxnorm.RunningMoments | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Array, jaxnorm.RunningMoments]:
        """Normalizes x.

        Args:
          x: Sequences, for instance of shape (batch, time, features).
          moments: Moments of the steps before x, which the last call returned; None if
            x is the start of the streams.
          mask: Selects valid elements, or gives weights; see `jaxnorm.layer_norm`.
          key: Ignored.

        Returns:
          The normalized sequences, and the moments to pass to the next call.
        """
        del key
        return self._normalize(x, mask, moments=moments)


class InstanceNorm(SampleModule, init=False):
    """Instance norm; see `jaxnorm.instance_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.InstanceNorm(1)
      >>> norm(jnp.array([[[1.0], [3.0]]])).round(3).ravel()
      Array([-1.,  1.], dtype=float32)
    """

    _description = sample.InstanceNorm


class ReversibleInstanceNorm(SampleModule, init=False):
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

    def __call__(  # type: ignore[override]
        self,
        x: Shaped[Array, "..."],
        *,
        mask: Shaped[Array, "..."] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Array, jaxnorm.Denormalizer]:
        """Normalizes x.

        Args:
          x: Series, for instance of shape (batch, time, features).
          mask: Selects the values that exist, or gives weights; see
            `jaxnorm.layer_norm`.
          key: Ignored.

        Returns:
          The normalized series, and the function that denormalizes forecasts.
        """
        del key
        return self._normalize(x, mask)


class UnitNorm(UnmaskedModule, init=False):
    """Divides vectors by their length; see `jaxnorm.unit_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.UnitNorm()
      >>> norm(jnp.array([[3.0, 4.0]])).round(3)
      Array([[0.6, 0.8]], dtype=float32)
    """

    _description = rms.UnitNorm

    def __init__(self, **fields: Any) -> None:
        super().__init__((), **fields)
