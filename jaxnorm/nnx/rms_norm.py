"""Root mean square layer normalization as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.dtypes import floating_input
from jaxnorm.nnx.affine import hashable, read
from jaxnorm.nnx.sample_module import SampleModule, SampleOptions


class RMSNorm(SampleModule):
    """Root mean square layer normalization: each example over its features.

    A drop-in superset of `flax.nnx.RMSNorm`: the same arguments, defaults and
    variables. The mathematics is that of `jaxnorm.rms_norm`.

    Attributes are those of `SampleModule`, without those of a bias, and:

    Attributes:
      reduction_axes: The axis or axes to average over.
      feature_axes: The axis or axes of scale, of sizes `num_features`.
      round_before_scale: Whether the normalized input is rounded to its dtype before
        the product with scale, as in Hugging Face's Llama.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.RMSNorm(2, scale_offset=1.0, rngs=nnx.Rngs(0))
      >>> norm.scale[...]
      Array([0., 0.], dtype=float32)
      >>> norm(jnp.array([[2.0, 2.0], [3.0, -3.0]])).round(2)
      Array([[ 1.,  1.],
             [ 1., -1.]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        reduction_axes: Axes = -1,
        feature_axes: Axes = -1,
        round_before_scale: bool = False,
        rngs: nnx.Rngs,
        **options: Unpack[SampleOptions],
    ) -> None:
        # given in the options, too, use_bias is an error
        super().__init__(num_features, use_bias=False, rngs=rngs, **options)  # type: ignore[misc]
        self.reduction_axes = hashable(reduction_axes)
        self.feature_axes = hashable(feature_axes)
        self.round_before_scale = round_before_scale

    def _promote(
        self, x: Array, *statistics: Array | None
    ) -> tuple[Array, Array | None, Array | None]:
        """Returns x, scale and None; `promote_dtype` sees a pair, as in Flax."""
        self._check_features(x, *statistics)
        x, scale = self.promote_dtype((x, read(self.scale)), dtype=self.dtype)
        return x, scale, None

    def __call__(
        self, x: Shaped[Array, "..."], mask: Shaped[Array, "..."] | None = None
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of any shape. Integers are converted to float32, as in Flax.
          mask: Which elements count, or their weights; see `jaxnorm.layer_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        x, scale, _ = self._promote(floating_input(x))
        return jaxnorm.rms_norm(
            x,
            scale,
            reduction_axes=self.reduction_axes,
            feature_axes=self.feature_axes,
            round_before_scale=self.round_before_scale,
            **self._shared(mask),
        )
