"""RMS norm whose scale depends on the input, as a layer, described once."""

from collections.abc import Sequence
from typing import Any

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

import jaxnorm
from jaxnorm._core.axes import Axes
from jaxnorm._core.collectives import Groups
from jaxnorm._core.dtypes import check_inexact
from jaxnorm._layers.fields import Arrays, Parameter, Parameters, description
from jaxnorm._layers.sample import MomentLayer


@description
class SeedNorm(MomentLayer):
    """Self-rescaled dynamic normalization.

    Attributes:
      num_heads: Into how many heads to cut the features; divides their number.
      epsilon: Added to the mean square; at least 0.
      alpha_init: Initializer of alpha, how far the scale follows the input.
      beta_init: Initializer of beta, the weights of the sum that it follows.
      reduction_axes: The axis or axes to sum and to average over; with several heads,
        among them that of the features.
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

    _optional = ("scale",)

    def _convert(self, x: Any) -> Array:
        return check_inexact(x, "x")

    def _parameters(self, features: tuple[int, ...]) -> Parameters:
        own: Parameters = {
            "alpha": Parameter(self.alpha_init, features),
            "beta": Parameter(self.beta_init, features),
        }
        return super()._parameters(features) | own

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Array:
        return jaxnorm.seed_norm(
            x,
            **params,
            num_heads=self.num_heads,
            reduction_axes=self.reduction_axes,
            **options,
        )
