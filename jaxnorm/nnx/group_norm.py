"""Group normalization as a Flax NNX module."""

from typing import Unpack

from flax import nnx
from jax import Array
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.core.axes import Axes
from jaxnorm.core.dtypes import floating_input
from jaxnorm.nnx.affine import hashable
from jaxnorm.nnx.sample_module import SampleModule, SampleOptions
from jaxnorm.sample.group_norm import group_length


class GroupNorm(SampleModule):
    """Group normalization: each example over groups of adjacent features.

    A drop-in superset of `flax.nnx.GroupNorm`: the same arguments, defaults and
    variables. The mathematics is that of `jaxnorm.group_norm`.

    Attributes are those of `SampleModule`, and:

    Attributes:
      num_groups: Into how many groups to cut the features; give None with `group_size`.
      group_size: How many features make a group.
      reduction_axes: The axes to average over, among them that of the features; by
        default all but the first, which is the batch.
      feature_axis: The axis of the features.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> norm = jaxnorm.nnx.GroupNorm(4, num_groups=2, rngs=nnx.Rngs(0))
      >>> norm(jnp.array([[1.0, 3.0, 10.0, 30.0]])).round(3)
      Array([[-1.,  1., -1.,  1.]], dtype=float32)
    """

    _axes_attribute = "feature_axis"

    def __init__(
        self,
        num_features: int,
        num_groups: int | None = 32,
        group_size: int | None = None,
        *,
        reduction_axes: Axes | None = None,
        feature_axis: int = -1,
        rngs: nnx.Rngs,
        **options: Unpack[SampleOptions],
    ) -> None:
        self.group_size = group_length(num_features, num_groups, group_size)
        self.num_groups = num_features // self.group_size
        super().__init__(num_features, rngs=rngs, **options)
        self.reduction_axes = hashable(reduction_axes)
        self.feature_axis = feature_axis

    def __call__(
        self, x: Shaped[Array, "..."], *, mask: Shaped[Array, "..."] | None = None
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of any shape. Integers are converted to float32, as in Flax.
          mask: Which elements count, or their weights; see `jaxnorm.layer_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        x, scale, bias = self._promote(floating_input(x))
        reduction_axes = self.reduction_axes
        if reduction_axes is None and x.ndim == 1:
            reduction_axes = 0  # Flax takes a single example without an axis for it
        return jaxnorm.group_norm(
            x,
            scale,
            bias,
            num_groups=self.num_groups,
            reduction_axes=reduction_axes,
            feature_axes=self.feature_axis,
            allow_single_value=True,
            **self._shared(mask),
        )
