"""Root mean square layer normalization as a Flax Linen module."""

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
from jaxnorm.linen.affine import scale_param


class RMSNorm(nn.Module):
    """Root mean square layer normalization: each example over its features.

    A drop-in superset of `flax.linen.RMSNorm`: the same arguments, defaults, variable
    tree (`params`: scale) and initialization, so that its checkpoints load unchanged.
    The mathematics is that of `jaxnorm.rms_norm`.

    While initializing no device is asked, so that no axis need be bound.

    Attributes:
      epsilon: Added to the mean square; at least 0.
      dtype: Dtype of the result; by default what the input and scale promote to.
      param_dtype: Dtype of scale.
      use_scale: Whether to multiply by a learned scale.
      scale_init: Initializer of the stored scale. By default the layer starts at a
        factor of 1: from ones, as in Flax, or from zeros if `scale_offset` is 1.
      reduction_axes: The axis or axes to average over.
      feature_axes: The axis or axes of scale.
      axis_name: Mapped axis or axes over which the reduced axes are divided. Under
        `jax.jit` a sharded input needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`.
      use_fast_variance: Without effect: without a mean there is but one way.
      force_float32_reductions: Without effect: the mean square is always computed in
        float32 or wider.
      scale_offset: Is added to the stored scale, in float32 or wider: 1 for models
        that store the distance from 1, so that weight decay pulls towards the identity.
      round_before_scale: Whether the normalized input is rounded to its dtype before
        the product with scale, as in Hugging Face's Llama.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen
      >>> x = jnp.array([[2.0, 2.0], [3.0, -3.0]])
      >>> norm = jaxnorm.linen.RMSNorm(scale_offset=1.0)
      >>> variables = norm.init(jax.random.key(0), x)
      >>> variables["params"]["scale"]
      Array([0., 0.], dtype=float32)
      >>> norm.apply(variables, x).round(2)
      Array([[ 1.,  1.],
             [ 1., -1.]], dtype=float32)
    """

    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    scale_init: Initializer | None = None
    reduction_axes: Axes = -1
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    scale_offset: float = 0.0
    round_before_scale: bool = False

    @nn.compact
    def __call__(
        self, x: Shaped[Array, "..."], *, mask: Shaped[Array, "..."] | None = None
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of any shape. Integers are converted to float32, as in Flax.
          mask: Which elements count, or their weights (Flax takes floating values for
            booleans); see `jaxnorm.layer_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        x = floating_input(x)
        features = canonical_axes(self.feature_axes, x.ndim)
        scale = scale_param(self, sizes(x.shape, features), self.scale_offset)
        initializing = self.is_initializing()
        return jaxnorm.rms_norm(
            x,
            scale,
            reduction_axes=self.reduction_axes,
            feature_axes=features,
            epsilon=self.epsilon,
            scale_offset=self.scale_offset,
            round_before_scale=self.round_before_scale,
            mask=mask,
            axis_name=None if initializing else self.axis_name,
            axis_index_groups=None if initializing else self.axis_index_groups,
            dtype=self.dtype,
        )
