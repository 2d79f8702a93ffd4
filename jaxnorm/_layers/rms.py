"""Layers that divide by a root mean square or a length, described once."""

from collections.abc import Sequence
from typing import Any

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

import jaxnorm
from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._layers.fields import description
from jaxnorm._layers.sample import MappedLayer, MomentLayer, ScaleLayer
from jaxnorm.sample.gated_rms_norm import Activation


@description
class RMSNorm(ScaleLayer):
    """Root mean square layer norm.

    Attributes:
      epsilon: Added to the mean square; at least 0.
      reduction_axes: The axis or axes to average over.
      round_before_scale: Whether the normalized input is rounded to its dtype before
        the product with scale, as in Hugging Face's Llama.
      use_fast_variance: Without effect, since there is no mean to subtract.
    """

    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    scale_offset: float = 0.0
    round_before_scale: bool = False

    _function = staticmethod(jaxnorm.rms_norm)
    _own_options = ("reduction_axes", "round_before_scale")


@description
class GatedRMSNorm(ScaleLayer):
    """Root mean square norm with a gate.

    Attributes:
      epsilon: Added to the mean square; at least 0.
      dtype: Dtype of the result; by default what input, gate and scale promote to.
      gate_first: Whether the input is gated before it is normalized (Mamba 2, Zamba2),
        and not after (gated DeltaNet, Qwen3-Next).
      activation: Activation function of the gate: "silu" or "sigmoid".
      num_groups: Number of groups of features; with neither this nor `group_size`, all
        features are one group.
      group_size: Number of features in a group.
      reduction_axes: The axis or axes to average over; with groups, they include the
        feature axis.
      feature_axes: The axis or axes of scale; with groups, the one feature axis.
    """

    gate_first: bool = False
    activation: Activation = "silu"
    num_groups: int | None = None
    group_size: int | None = None
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    _function = staticmethod(jaxnorm.gated_rms_norm)
    _own_options = (
        "gate_first",
        "activation",
        "num_groups",
        "group_size",
        "reduction_axes",
    )
    _takes_integers = False

    def __call__(  # type: ignore[override]
        self,
        x: Inexact[Array, "..."],
        gate: Inexact[Array, "..."],
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes and gates x.

        Args:
          x: Input of any shape.
          gate: Input of the activation, of the shape of x; real.
          mask: Selects valid elements, or gives weights; see `jaxnorm.gated_rms_norm`.

        Returns:
          The normalized and gated input, of the shape of x.
        """
        return self._normalize(x, mask, gate=gate)


@description
class SeedNorm(MomentLayer):
    """Self-rescaled dynamic normalization.

    Attributes:
      num_heads: Number of heads of features; divides the number of features.
      epsilon: Added to the mean square; at least 0.
      alpha_init: Initializer of alpha, how much the scale depends on the input.
      beta_init: Initializer of beta, the weights of the input in this dependence.
      reduction_axes: The axis or axes to sum and to average over; with several heads,
        they include the feature axis.
      feature_axes: The axis or axes of the parameters; with several heads, the one
        feature axis.
    """

    num_heads: int = 1
    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    alpha_init: Initializer = initializers.ones
    beta_init: Initializer = initializers.zeros
    scale_init: Initializer | None = None
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    _function = staticmethod(jaxnorm.seed_norm)
    _own_options = ("num_heads", "reduction_axes")
    _optional = ("scale",)
    _required = ("alpha", "beta")
    _takes_integers = False


@description
class UnitNorm(MappedLayer):
    """Vectors of length 1.

    Attributes:
      axes: The axis or axes along which the vectors lie.
      epsilon: Added to the squared length; at least 0.
      dtype: Dtype of the result; by default the dtype of the input.
      axis_name: Mapped axis or axes over which the vectors are divided. Under `jax.jit`
        a sharded input needs none.
    """

    axes: Axes = -1
    epsilon: float = 0.0
    dtype: DTypeLike | None = None
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None

    _function = staticmethod(jaxnorm.unit_norm)
    _axes_field = "axes"
    _optional = ()
    _takes_integers = False

    def _options(self, x: Array, mask: Array | None) -> dict[str, Any]:
        return self._mapped_axes() | {
            "axes": self.axes,
            "epsilon": self.epsilon,
            "dtype": self.dtype,
        }

    def __call__(self, x: Inexact[Array, "..."]) -> Array:  # type: ignore[override]
        """Returns x divided by the length of its vectors."""
        return self._normalize(x)
