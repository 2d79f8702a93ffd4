"""Layers that normalize groups of features of each example, described once."""

from collections.abc import Sequence
from typing import Any, ClassVar

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

import jaxnorm
from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._layers.fields import Arrays, description
from jaxnorm._layers.sample import MomentLayer, warning_of_single_values


@description
class GroupNorm(MomentLayer):
    """Group norm.

    Attributes:
      num_groups: Number of groups of features; None if `group_size` is given.
      group_size: Number of features in a group; needs `num_groups=None`.
      reduction_axes: The axes to average over, including the feature axis; by default
        all but the first, which is the batch.
      feature_axes: The one axis of the features.
    """

    num_groups: int | None = 32
    group_size: int | None = None
    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer | None = None
    reduction_axes: Axes | None = None
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    feature_axes: Axes = -1
    scale_offset: float = 0.0

    _function = warning_of_single_values(jaxnorm.group_norm)
    _own_options: ClassVar[tuple[str, ...]] = (
        "num_groups",
        "group_size",
        "reduction_axes",
    )

    def _forward(self, x: Array, params: Arrays, options: dict[str, Any]) -> Any:
        """Normalizes x; an x of rank 1 is one example without a batch axis."""
        if self.reduction_axes is None and x.ndim == 1:
            # Flax takes a single example without an axis for it
            options = options | {"reduction_axes": 0}
        return super()._forward(x, params, options)


@description
class CausalGroupNorm(MomentLayer):
    """Causal group norm.

    The moments of a stream are passed in and out, as the carry of a recurrent cell is,
    and are not variables: so a model serves any number of streams.

    Attributes:
      time_axis: The axis of the steps.
      num_groups: Number of groups of features; None if `group_size` is given. With 1,
        the layer is the cumulative layer norm of speech models.
      group_size: Number of features in a group; needs `num_groups=None`.
      reduction_axes: The axes to average over at each step, including the feature
        axis; by default all but the time and the first, which is the batch.
      feature_axes: The one axis of the features.
    """

    time_axis: int = 1
    num_groups: int | None = 1
    group_size: int | None = None
    epsilon: float = 1e-6
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer | None = None
    reduction_axes: Axes | None = None
    feature_axes: Axes = -1
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    scale_offset: float = 0.0

    _function = staticmethod(jaxnorm.causal_group_norm)
    _own_options = ("time_axis", "num_groups", "group_size", "reduction_axes")
    _takes_integers = False

    def __call__(  # type: ignore[override]
        self,
        x: Inexact[Array, "..."],
        moments: jaxnorm.RunningMoments | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> tuple[Array, jaxnorm.RunningMoments]:
        """Normalizes x.

        Args:
          x: Sequences, for instance of shape (batch, time, features).
          moments: Moments of the steps before x, which the last call returned; None if
            x is the start of the streams.
          mask: Selects valid elements, or gives weights; see
            `jaxnorm.causal_group_norm`.

        Returns:
          The normalized sequences, and the moments to pass to the next call.
        """
        return self._normalize(x, mask, moments=moments)
