"""Reversible instance normalization as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.dtypes import floating_input
from jaxnorm.nnx.affine import hashable
from jaxnorm.nnx.sample_module import SampleModule, SampleOptions


class ReversibleInstanceNorm(SampleModule):
    """Normalizes each series over time, and gives the way back for forecasts.

    The mathematics is that of `jaxnorm.reversible_instance_norm`. Variables:
    `nnx.Param`: scale and bias, which the way back inverts; initialize the scale away
    from 0, since it is divided by.

    Attributes are those of `SampleModule`, with epsilon 1e-5 by default, and:

    Attributes:
      time_axis: The axis that is averaged over.
      feature_axes: The axis or axes along which scale and bias lie.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> x = jnp.array([[[1.0], [3.0]], [[10.0], [30.0]]])  # two series, two times
      >>> norm = jaxnorm.nnx.ReversibleInstanceNorm(1, rngs=nnx.Rngs(0))
      >>> y, undo = norm(x)
      >>> undo(jnp.zeros((2, 3, 1)))[..., 0]  # three times of a forecast
      Array([[ 2.,  2.,  2.],
             [20., 20., 20.]], dtype=float32)
    """

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        time_axis: int = 1,
        feature_axes: Axes = -1,
        rngs: nnx.Rngs,
        **options: Unpack[SampleOptions],
    ) -> None:
        options.setdefault("epsilon", 1e-5)
        super().__init__(num_features, rngs=rngs, **options)
        self.time_axis = time_axis
        self.feature_axes = hashable(feature_axes)

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
        x, scale, bias = self._promote(floating_input(x))
        return jaxnorm.reversible_instance_norm(
            x,
            scale,
            bias,
            time_axis=self.time_axis,
            feature_axes=self.feature_axes,
            allow_single_value=True,
            **self._shared(mask),
        )
