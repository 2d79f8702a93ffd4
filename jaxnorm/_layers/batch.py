"""Layers with running statistics, described once."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax import Array
from jax import numpy as jnp
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import ArrayLike, DTypeLike

import jaxnorm
from jaxnorm._core.axes import Axes, canonical_axes, other_axes
from jaxnorm._core.batch_call import BatchOptions, exact_moments
from jaxnorm._core.collectives import Groups
from jaxnorm._core.reduction import Blocks, Reduction
from jaxnorm._core.running import Schedule
from jaxnorm._layers.fields import Arrays, Layer, Parameter, Parameters, description
from jaxnorm.batch.ghost_stats import StatsRule
from jaxnorm.batch.stream_options import stream_options


@description
class BatchLayer(Layer):
    """A layer that normalizes with statistics of the batch, and keeps running ones.

    The order of the fields is that of `flax.linen.BatchNorm`.

    Attributes:
      use_running_average: False in training, True in inference; here or in the call.
      axis: The feature axis or axes.
      momentum: Weight of the old statistics, in [0, 1], or a function of the number of
        updates, for instance `jaxnorm.warmup_momentum()`. That number is then kept with
        the statistics, as `count`, a float32 scalar.
      epsilon: Added to the variance; at least 0.
      axis_name: Mapped axis or axes over which statistics are shared. Under `jax.jit` a
        sharded input needs none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`.
      use_fast_variance: One pass over the input, or two; see `jaxnorm.batch_norm`.
      force_float32_reductions: Whether the statistics are stored in float32; False:
        in `param_dtype`. They are computed in float32 or wider in any case.
      unbiased: Whether the running variance takes the batch's times n / (n - 1).
      skip_nonfinite: Whether all statistics of the layer stay as they were when the
        batch's are not finite.
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
    # Whether something is left of a batch of a single value for each feature.
    _keeps_single_values = False

    @property
    def _stats_dtype(self) -> DTypeLike:
        return jnp.float32 if self.force_float32_reductions else self.param_dtype

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        """Returns the running statistics before the first update, a NamedTuple.

        Args:
          features: Sizes of the feature axes.
          counted: Whether to count the updates, as a function for a momentum needs.
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
        """Returns the exact moments that move the statistics, in their shape."""
        return exact_moments(x, options)

    def _warn_of_single_values(self, x: Array, options: BatchOptions) -> None:
        """Warns, in training, where each mean is of a single value and erases it."""
        if not (self._keeps_single_values or options["use_running_average"]):
            fix = "Train on more examples at once"
            self._reduction(x, options).check_several(x, "warn", fix)

    def _reduction(self, x: Array, options: BatchOptions) -> Reduction:
        """Returns what a mean of the batch is taken over."""
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
          options: What `_options` returns.

        Returns:
          The normalized input, and the new statistics.
        """
        raise NotImplementedError


@description
class BatchNorm(BatchLayer):
    """Batch norm."""

    def _forward(
        self, x: Array, stats: Any, params: Arrays, options: BatchOptions
    ) -> tuple[Array, Any]:
        return jaxnorm.batch_norm(x, stats, **params, **options)


@description
class GhostBatchNorm(BatchLayer):
    """Ghost batch norm.

    Attributes:
      virtual_batch_size: Examples of a ghost, over all devices of `axis_name`.
      stats_rule: How the running statistics follow those of the ghosts: "pooled",
        "mean" or "sequential".
      axis_index_groups: Must be None.
    """

    virtual_batch_size: int = dataclasses.field(kw_only=True)
    stats_rule: StatsRule = "pooled"

    def _reduction(self, x: Array, options: BatchOptions) -> Reduction:
        batch, *space = super()._reduction(x, options).axes
        ghosts = Blocks(batch, self.virtual_batch_size)  # a size over all devices
        return Reduction.over(x, tuple(space), blocks=ghosts)

    def _forward(
        self, x: Array, stats: Any, params: Arrays, options: BatchOptions
    ) -> tuple[Array, Any]:
        return jaxnorm.ghost_batch_norm(
            x,
            stats,
            **params,
            virtual_batch_size=self.virtual_batch_size,
            stats_rule=self.stats_rule,
            **options,
        )


@description
class AdaptiveBatchNorm(BatchLayer):
    """Instance-aware batch norm.

    Attributes:
      strength: How many standard deviations an example may differ from the batch before
        it is corrected; at least 0.
    """

    strength: float = 4.0

    def _forward(
        self, x: Array, stats: Any, params: Arrays, options: BatchOptions
    ) -> tuple[Array, Any]:
        return jaxnorm.adaptive_batch_norm(
            x, stats, **params, strength=self.strength, **options
        )


@description
class BatchRenorm(BatchLayer):
    """Batch renormalization.

    Attributes:
      r_max: Bound of the correction of scale, at least 1, or a function of the number
        of updates so far.
      d_max: Bound of the correction of the mean, in standard deviations, at least 0, or
        a function of the number of updates so far.
      unbiased: Must be False.
    """

    r_max: ArrayLike | Schedule = 3.0
    d_max: ArrayLike | Schedule = 5.0

    _keeps_single_values = True

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        return jaxnorm.init_renorm_stats(features)

    def _forward(
        self, x: Array, stats: Any, params: Arrays, options: BatchOptions
    ) -> tuple[Array, Any]:
        return jaxnorm.batch_renorm(
            x, stats, **params, r_max=self.r_max, d_max=self.d_max, **options
        )


@description
class MeanOnlyBatchNorm(BatchLayer):
    """Batch norm of the mean alone.

    Attributes:
      use_fast_variance: Without effect, as there is no variance.
      unbiased: Likewise.
      epsilon: Likewise.
      scale_init: Without effect, as there is no scale.
    """

    use_scale: bool = dataclasses.field(default=False, init=False)

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        return jaxnorm.init_mean_stats(features, self._stats_dtype, counted=counted)

    def _forward(
        self, x: Array, stats: Any, params: Arrays, options: BatchOptions
    ) -> tuple[Array, Any]:
        return jaxnorm.mean_only_batch_norm(x, stats, params["bias"], **options)


@description
class EvoNormB0(BatchLayer):
    """Normalization by batch and instance, and the activation, in one.

    Attributes:
      v_init: Initializer of v, the slope of the gate.
    """

    v_init: Initializer = initializers.ones

    _keeps_single_values = True

    def _parameters(self, features: tuple[int, ...]) -> Parameters:
        own: Parameters = {"v": Parameter(self.v_init, features)}
        return super()._parameters(features) | own

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        return jaxnorm.init_var_stats(features, self._stats_dtype, counted=counted)

    def _forward(
        self, x: Array, stats: Any, params: Arrays, options: BatchOptions
    ) -> tuple[Array, Any]:
        return jaxnorm.evo_norm_b0(x, stats, **params, **options)


@description
class RunningNorm(BatchLayer):
    """Normalization by the moments of all that was seen.

    Attributes:
      momentum: Must be left out.
      max_abs: The result is clipped to [-max_abs, max_abs]; not clipped where None.
      max_count: The past weighs as much as that many elements at most; where None, all
        that was seen weighs the same.
      use_fast_variance: Without effect: there always are two passes.
      unbiased: Must be False.
      scale_init: Without effect, as there are no parameters.
      bias_init: Likewise.
    """

    epsilon: float = 1e-8
    use_scale: bool = dataclasses.field(default=False, init=False)
    use_bias: bool = dataclasses.field(default=False, init=False)
    max_abs: float | None = None
    max_count: int | float | None = None

    _keeps_single_values = True

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        return jaxnorm.init_running_moments(features, self._stats_dtype)

    def _forward(
        self, x: Array, stats: Any, params: Arrays, options: BatchOptions
    ) -> tuple[Array, Any]:
        return jaxnorm.running_norm(
            x,
            stats,
            max_abs=self.max_abs,
            max_count=self.max_count,
            **stream_options(options),
        )
