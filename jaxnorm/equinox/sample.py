"""Norms of each example as Equinox modules."""

from typing import Any

from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm._layers import group, rms, sample
from jaxnorm.equinox.module import SampleModule


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
    """Causal group norm; returns y and the moments to go on with.

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
        x: Shaped[Array, "..."],
        moments: jaxnorm.RunningMoments | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> tuple[Array, jaxnorm.RunningMoments]:
        """Normalizes x.

        Args:
          x: Sequences, for instance of shape (batch, time, features).
          moments: Of the steps before x: those that the last call returned. Where None,
            x is the start.
          mask: Which elements count, or their weights; see `jaxnorm.causal_group_norm`.

        Returns:
          The normalized sequences, and the moments to go on with.
        """
        return self._normalize(x, mask, moments=moments)


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


class UnitNorm(SampleModule):
    """Vectors of length 1; see `jaxnorm.unit_norm`.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.equinox
      >>> norm = jaxnorm.equinox.UnitNorm()
      >>> norm(jnp.array([[3.0, 4.0]])).round(3)
      Array([[0.6, 0.8]], dtype=float32)
    """

    _description = rms.UnitNorm

    def __init__(self, **fields: Any) -> None:
        super().__init__((), **fields)  # type: ignore[arg-type]

    def __call__(  # type: ignore[override]
        self, x: Shaped[Array, "..."], *, key: Any = None
    ) -> Array:
        """Divides x by its length; the key is ignored, for `equinox.nn.Sequential`."""
        del key
        return self._normalize(x)
