"""Layers with running statistics, described once."""

import dataclasses
from typing import Any

from jax import Array
from jax.nn import initializers
from jax.nn.initializers import Initializer
from jax.typing import ArrayLike

import jaxnorm
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._core.reductions.reduction import Blocks, Reduction
from jaxnorm._core.running.momentum import Schedule
from jaxnorm._layers.batch_layer import BatchLayer
from jaxnorm._layers.fields import Arrays, description
from jaxnorm.batch.ghost_stats import StatsRule
from jaxnorm.batch.stream_options import stream_options


@description
class BatchNorm(BatchLayer):
    """Batch norm."""

    _function = staticmethod(jaxnorm.batch_norm)


@description
class GhostBatchNorm(BatchLayer):
    """Ghost batch norm.

    Attributes:
      virtual_batch_size: Number of examples in a ghost, over all devices of
        `axis_name`.
      stats_rule: How the statistics of the ghosts update the running statistics:
        "pooled", "mean" or "sequential".
      axis_index_groups: Must be None.
    """

    virtual_batch_size: int = dataclasses.field(kw_only=True)
    stats_rule: StatsRule = "pooled"

    _function = staticmethod(jaxnorm.ghost_batch_norm)
    _own_options = ("virtual_batch_size", "stats_rule")

    def _reduction(self, x: Array, options: BatchOptions) -> Reduction:
        """Returns the axes of one ghost, with its size over all devices."""
        batch, *space = super()._reduction(x, options).axes
        ghosts = Blocks(batch, self.virtual_batch_size)  # a size over all devices
        return Reduction.over(x, tuple(space), blocks=ghosts)


@description
class AdaptiveBatchNorm(BatchLayer):
    """Instance-aware batch norm.

    Attributes:
      strength: Number of standard deviations from the batch beyond which an example is
        corrected; at least 0.
    """

    strength: float = 4.0

    _function = staticmethod(jaxnorm.adaptive_batch_norm)
    _own_options = ("strength",)


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

    _function = staticmethod(jaxnorm.batch_renorm)
    _own_options = ("r_max", "d_max")
    _keeps_single_values = True

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        return jaxnorm.init_renorm_stats(features)


@description
class MeanOnlyBatchNorm(BatchLayer):
    """Batch norm of the mean alone.

    Attributes:
      use_fast_variance: Without effect, as there is no variance.
      unbiased: Without effect, as there is no variance.
      epsilon: Without effect, as there is no variance.
      scale_init: Without effect, as there is no scale.
    """

    use_scale: bool = dataclasses.field(default=False, init=False)

    _function = staticmethod(jaxnorm.mean_only_batch_norm)

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        return jaxnorm.init_mean_stats(features, self._stats_dtype, counted=counted)

    def _forward(self, x: Array, stats: Any, params: Arrays, options: Any) -> Any:
        """Normalizes x; passes on the bias, but no scale."""
        return super()._forward(x, stats, {"bias": params["bias"]}, options)


@description
class EvoNormB0(BatchLayer):
    """Normalization by batch and instance statistics combined with an activation.

    Attributes:
      v_init: Initializer of v, the slope of the gate.
    """

    v_init: Initializer = initializers.ones

    _function = staticmethod(jaxnorm.evo_norm_b0)
    _required = ("v",)
    _keeps_single_values = True

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        return jaxnorm.init_var_stats(features, self._stats_dtype, counted=counted)


@description
class RunningNorm(BatchLayer):
    """Normalization by the moments of all inputs so far.

    Attributes:
      momentum: Must be left out.
      max_abs: The result is clipped to [-max_abs, max_abs]; with None, it is not.
      max_count: The past weighs at most as much as this many elements; with None, all
        elements weigh the same.
      use_fast_variance: Without effect: moments always take two passes.
      unbiased: Must be False.
      scale_init: Without effect, as there are no parameters.
      bias_init: Without effect, as there are no parameters.
    """

    epsilon: float = 1e-8
    use_scale: bool = dataclasses.field(default=False, init=False)
    use_bias: bool = dataclasses.field(default=False, init=False)
    max_abs: float | None = None
    max_count: int | float | None = None

    _function = staticmethod(jaxnorm.running_norm)
    _own_options = ("max_abs", "max_count")
    _keeps_single_values = True

    def _initial_stats(self, features: tuple[int, ...], *, counted: bool) -> Any:
        return jaxnorm.init_running_moments(features, self._stats_dtype)

    def _forward(self, x: Array, stats: Any, params: Arrays, options: Any) -> Any:
        """Normalizes x; passes on no parameters, and only options of streams."""
        own: Any = stream_options(options)
        return super()._forward(x, stats, {}, own)
