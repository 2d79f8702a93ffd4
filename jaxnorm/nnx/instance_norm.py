"""Instance normalization as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.dtypes import floating_input
from jaxnorm.nnx.affine import hashable
from jaxnorm.nnx.sample_module import SampleModule, SampleOptions


class InstanceNorm(SampleModule):
    """Instance normalization: each feature of each example over space.

    A drop-in superset of `flax.nnx.InstanceNorm`: the same arguments, defaults and
    variables. The mathematics is that of `jaxnorm.instance_norm`.

    Attributes are those of `SampleModule`, and:

    Attributes:
      feature_axes: The axis or axes that keep their own statistics; not the first,
        which is the batch, without `reduction_axes`.
      reduction_axes: The axes of space; by default all but the first, which is the
        batch, and those of the features.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.InstanceNorm(2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[[1.0, 10.0], [3.0, 30.0]]])).round(3)
      Array([[[-1., -1.],
              [ 1.,  1.]]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        reduction_axes: Axes | None = None,
        feature_axes: Axes = -1,
        rngs: nnx.Rngs,
        **options: Unpack[SampleOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **options)
        self.reduction_axes = hashable(reduction_axes)
        self.feature_axes = hashable(feature_axes)

    def __call__(
        self, x: Shaped[Array, "batch ..."], *, mask: Shaped[Array, "..."] | None = None
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of shape (batch, ...). Integers are converted to float32, as in Flax.
          mask: Which elements count, or their weights; see `jaxnorm.layer_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        x, scale, bias = self._promote(floating_input(x))
        return jaxnorm.instance_norm(
            x,
            scale,
            bias,
            reduction_axes=self.reduction_axes,
            feature_axes=self.feature_axes,
            allow_single_value=True,
            **self._shared(mask),
        )
