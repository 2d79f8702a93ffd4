"""What all layers with running statistics share: fields, call and options."""

from collections.abc import Sequence
from typing import Any

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike
from jaxtyping import Shaped

import jaxnorm
from jaxnorm._core.arguments.axes import Axes, canonical_axes, other_axes
from jaxnorm._core.batch_call import exact_moments
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.running.momentum import Schedule, evaluate_schedule
from jaxnorm._layers.fields import Arrays, Layer, description


@description
class BatchLayer(Layer):
    """A layer that normalizes with statistics of the batch, and keeps running ones.

    The fields have the order of `flax.linen.BatchNorm`.

    Attributes:
      use_running_average: False in training, True in inference; here or in the call.
      axis: The feature axis or axes.
      momentum: Weight of the old statistics, in [0, 1], or a function of the number of
        updates, for instance `jaxnorm.warmup_momentum()`. The number of updates is then
        kept with the statistics, as `count`, a float32 scalar.
      epsilon: Added to the variance; at least 0.
      axis_name: Mapped axis or axes over which statistics are shared. Under `jax.jit` a
        sharded input needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`.
      use_fast_variance: One pass over the input, or two; see `jaxnorm.batch_norm`.
      force_float32_reductions: Whether the statistics are stored in float32; False:
        in `param_dtype`. They are computed in float32 or wider in any case.
      unbiased: Whether running variances average batch variances times n / (n - 1).
      skip_nonfinite: Whether all statistics of the layer stay unchanged if the
        statistics of the batch are not finite.
    """

    use_running_average: bool | None = None
    axis: Axes = -1
    momentum: float | Schedule = 0.99
    epsilon: float = 1e-5
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_bias: bool = True
    use_scale: bool = True
    bias_init: Initializer = initializers.zeros
    scale_init: Initializer = initializers.ones
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    unbiased: bool = False
    skip_nonfinite: bool = False

    _axes_field = "axis"
    # Whether y still depends on x if a batch has a single value for each feature.
    _keeps_single_values = False

    def __call__(
        self,
        x: Shaped[Array, "..."],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of any shape, usually (batch, ...). Integers
            are converted to float32, as in Flax.
          use_running_average: False in training, True in inference.
          mask: Selects valid elements, or gives weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        return self._normalize(x, use_running_average, mask)

    def _normalize(
        self, x: Any, use_running_average: bool | None, mask: Array | None, **given: Any
    ) -> Array:
        """Reads variables, calls `_forward`, stores statistics. Modules define it."""
        raise NotImplementedError

    @property
    def _stats_dtype(self) -> DTypeLike:
        """Returns the dtype of the running statistics."""
        return jnp.float32 if self.force_float32_reductions else self.param_dtype

    def _counts_updates(self) -> bool:
        """Returns whether new statistics count their updates, as schedules need.

        Raises:
          TypeError: If momentum is a factory of schedules, and not a schedule. Without
            this check, only the first step of training would raise it.
        """
        if not callable(self.momentum):
            return False
        evaluate_schedule(self.momentum, jnp.zeros((), jnp.float32), "momentum")
        return True

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        """Returns the running statistics before the first update, a NamedTuple.

        Args:
          features: Sizes of the feature axes.
          counted: Whether to count the updates, as a momentum schedule needs.
        """
        return jaxnorm.init_batch_stats(features, self._stats_dtype, counted=counted)

    def _options(
        self, x: Array, use_running_average: bool, mask: Array | None
    ) -> BatchOptions:
        """Returns the keyword options that all functions of the family take."""
        return {
            "use_running_average": use_running_average,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "feature_axes": self._feature_axes(x),
            "mask": mask,
            "axis_name": self.axis_name,
            "axis_index_groups": self.axis_index_groups,
            "use_fast_variance": self.use_fast_variance,
            "unbiased": self.unbiased,
            "skip_nonfinite": self.skip_nonfinite,
            "dtype": self.dtype,
        }

    def _moments(self, x: Array, options: BatchOptions) -> jaxnorm.Moments:
        """Returns the exact moments of x, in the shape of the running statistics."""
        return exact_moments(x, options)

    def _warn_of_single_values(self, x: Array, options: BatchOptions) -> None:
        """Warns in training if each mean is of one value, so the output is the bias."""
        if not (self._keeps_single_values or options["use_running_average"]):
            fix = "Train on more examples at once"
            self._reduction(x, options).check_several(x, "warn", fix)

    def _reduction(self, x: Array, options: BatchOptions) -> Reduction:
        """Returns the axes and devices over which the batch is averaged."""
        features = canonical_axes(options["feature_axes"], x.ndim)
        names, groups = options["axis_name"], options["axis_index_groups"]
        return Reduction.over(x, other_axes(features, x.ndim), names, groups)

    def _forward(
        self, x: Array, stats: Any, params: Arrays, options: BatchOptions
    ) -> tuple[Array, Any]:
        """Normalizes x.

        Args:
          x: Input.
          stats: Running statistics, like those that `_initial_stats` returns.
          params: The parameters, by the names that `_parameters` has.
          options: The options that `_options` returns.

        Returns:
          The normalized input, and the new statistics.
        """
        y, new = self._call(x, stats, **params, **options)
        return y, new
