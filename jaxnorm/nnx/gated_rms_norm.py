"""Root mean square normalization with a gate as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from jax import Array
from jaxtyping import Inexact, Shaped

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.nnx.affine import hashable, read
from jaxnorm.nnx.sample_module import SampleModule, SampleOptions
from jaxnorm.sample.gated_rms_norm import Activation


class GatedRMSNorm(SampleModule):
    """Root mean square normalization with a gate: Mamba 2, gated DeltaNet, Qwen3-Next.

    The mathematics is that of `jaxnorm.gated_rms_norm`.

    Attributes are those of `SampleModule`, without those of a bias, and, with the same
    meaning as in `jaxnorm.linen.GatedRMSNorm`: gate_first, activation, num_groups,
    group_size, reduction_axes, feature_axes. `promote_dtype` is called with the input,
    the gate and the scale.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> x = jnp.array([[2.0, -2.0, 4.0, 4.0]])
      >>> gate = jnp.array([[0.0, 2.0, 0.0, 2.0]])
      >>> norm = jaxnorm.nnx.GatedRMSNorm(
      ...     4, num_groups=2, gate_first=True, rngs=nnx.Rngs(0)
      ... )
      >>> norm(x, gate).round(2)
      Array([[ 0.  , -1.41,  0.  ,  1.41]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        gate_first: bool = False,
        activation: Activation = "silu",
        num_groups: int | None = None,
        group_size: int | None = None,
        reduction_axes: Axes = -1,
        feature_axes: Axes = -1,
        rngs: nnx.Rngs,
        **options: Unpack[SampleOptions],
    ) -> None:
        # given in the options, too, use_bias is an error
        super().__init__(num_features, use_bias=False, rngs=rngs, **options)  # type: ignore[misc]
        self.gate_first = gate_first
        self.activation = activation
        self.num_groups = num_groups
        self.group_size = group_size
        self.reduction_axes = hashable(reduction_axes)
        self.feature_axes = hashable(feature_axes)

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
        x, gate, scale = self.promote_dtype(
            (x, gate, read(self.scale)), dtype=self.dtype
        )
        return jaxnorm.gated_rms_norm(
            x,
            gate,
            scale,
            gate_first=self.gate_first,
            activation=self.activation,
            num_groups=self.num_groups,
            group_size=self.group_size,
            reduction_axes=self.reduction_axes,
            feature_axes=self.feature_axes,
            **self._shared(mask),
        )
