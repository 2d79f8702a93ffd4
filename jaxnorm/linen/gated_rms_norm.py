"""Root mean square normalization with a gate as a Flax Linen module."""

from collections.abc import Sequence

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

import jaxnorm
from jaxnorm.core.axes import Axes, canonical_axes, sizes
from jaxnorm.core.collectives import Groups
from jaxnorm.linen.affine import scale_param
from jaxnorm.sample.gated_rms_norm import Activation


class GatedRMSNorm(nn.Module):
    """Root mean square normalization with a gate: Mamba 2, gated DeltaNet, Qwen3-Next.

    The only variable is the parameter `scale`. The mathematics is that of
    `jaxnorm.gated_rms_norm`.

    While initializing no device is asked, so that no axis need be bound.

    Attributes:
      epsilon: Added to the mean square; at least 0.
      dtype: Dtype of the result; by default what input, gate and scale promote to.
      param_dtype: Dtype of scale.
      use_scale: Whether to multiply by a learned scale.
      scale_init: Initializer of the stored scale. By default the layer starts at a
        factor of 1: from ones, or from zeros if `scale_offset` is 1.
      gate_first: Whether the input is gated before it is normalized (Mamba 2, Zamba2),
        and not after (gated DeltaNet, Qwen3-Next).
      activation: Of the gate: "silu" or "sigmoid".
      num_groups: Into how many groups to cut the features; with neither this nor
        `group_size`, they are one.
      group_size: How many features make a group.
      reduction_axes: The axis or axes to average over; with groups, among them that of
        the features.
      feature_axes: The axis or axes of scale; with groups, the one feature axis.
      axis_name: Mapped axis or axes over which the reduced axes are divided. Under
        `jax.jit` a sharded input needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`.
      scale_offset: Is added to the stored scale, in float32 or wider.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[2.0, -2.0, 4.0, 4.0]])
      >>> gate = jnp.array([[0.0, 2.0, 0.0, 2.0]])
      >>> norm = jaxnorm.linen.GatedRMSNorm(num_groups=2, gate_first=True)
      >>> variables = norm.init(jax.random.key(0), x, gate)
      >>> norm.apply(variables, x, gate).round(2)
      Array([[ 0.  , -1.41,  0.  ,  1.41]], dtype=float32)
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    scale_init: Initializer | None = None
    gate_first: bool = False
    activation: Activation = "silu"
    num_groups: int | None = None
    group_size: int | None = None
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Inexact[Array, "..."],
        gate: Inexact[Array, "..."],
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
        features = canonical_axes(self.feature_axes, x.ndim)
        scale = scale_param(self, sizes(x.shape, features), self.scale_offset)
        initializing = self.is_initializing()
        return jaxnorm.gated_rms_norm(
            x,
            gate,
            scale,
            gate_first=self.gate_first,
            activation=self.activation,
            num_groups=self.num_groups,
            group_size=self.group_size,
            reduction_axes=self.reduction_axes,
            feature_axes=features,
            epsilon=self.epsilon,
            scale_offset=self.scale_offset,
            mask=mask,
            axis_name=None if initializing else self.axis_name,
            axis_index_groups=None if initializing else self.axis_index_groups,
            dtype=self.dtype,
        )
