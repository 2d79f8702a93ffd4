"""Reversible instance normalization as a Flax Linen module."""

from collections.abc import Sequence

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.core.axes import Axes, canonical_axes, sizes
from jaxnorm.core.collectives import Groups
from jaxnorm.core.dtypes import floating_input
from jaxnorm.linen.affine import affine_params


class ReversibleInstanceNorm(nn.Module):
    """Normalizes each series over time, and gives the way back for forecasts.

    The mathematics is that of `jaxnorm.reversible_instance_norm`. Variables: `params`:
    scale and bias, which the way back inverts.

    Attributes:
      time_axis: The axis that is averaged over.
      feature_axes: The axis or axes along which scale and bias lie.
      epsilon: Added to the variance; at least 0.
      dtype: Dtype of the result; by default what the input and parameters promote to.
      param_dtype: Dtype of scale and bias.
      use_bias: Whether a learned bias is added.
      use_scale: Whether to multiply by a learned scale.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the stored scale. By default the layer starts at a
        factor of 1, which must not come near 0, since it is divided by.
      axis_name: Mapped axis or axes over which the time is divided. Under `jax.jit` a
        sharded input needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`.
      scale_offset: Is added to the stored scale, in float32 or wider: 1 for models
        that store the distance from 1, so that weight decay pulls towards the identity.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[[1.0], [3.0]], [[10.0], [30.0]]])  # two series, two times
      >>> norm = jaxnorm.linen.ReversibleInstanceNorm()
      >>> variables = norm.init(jax.random.key(0), x)
      >>> y, undo = norm.apply(variables, x)
      >>> undo(jnp.zeros((2, 3, 1)))[..., 0]  # three times of a forecast
      Array([[ 2.,  2.,  2.],
             [20., 20., 20.]], dtype=float32)
    """

    time_axis: int = 1
    feature_axes: Axes = -1
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer | None = None
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "..."], *, mask: Shaped[Array, "..."] | None = None
    ) -> tuple[Array, jaxnorm.Denormalizer]:
        """Normalizes x.

        Args:
          x: Series, for instance of shape (batch, time, features). Integers are
            converted to float32.
          mask: Which values are there, or their weights; see `jaxnorm.layer_norm`.

        Returns:
          The normalized series, and the function that brings forecasts back.
        """
        x = floating_input(x)
        features = canonical_axes(self.feature_axes, x.ndim)
        scale, bias = affine_params(self, sizes(x.shape, features), self.scale_offset)
        initializing = self.is_initializing()
        return jaxnorm.reversible_instance_norm(
            x,
            scale,
            bias,
            time_axis=self.time_axis,
            feature_axes=features,
            epsilon=self.epsilon,
            scale_offset=self.scale_offset,
            mask=mask,
            axis_name=None if initializing else self.axis_name,
            axis_index_groups=None if initializing else self.axis_index_groups,
            allow_single_value=True,
            dtype=self.dtype,
        )
