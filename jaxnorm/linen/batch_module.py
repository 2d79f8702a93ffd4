"""What all modules with running statistics share."""

from collections.abc import Callable, Mapping, Sequence

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.batch.call import BatchOptions, exact_moments
from jaxnorm.core.axes import Axes, canonical_axes, sizes
from jaxnorm.core.collectives import Groups
from jaxnorm.core.dtypes import floating_input
from jaxnorm.core.momentum import Schedule


class BatchModule(nn.Module):
    """The attributes of a batch normalizer, and its running statistics.

    The order is that of `flax.linen.BatchNorm`. While initializing, no statistic is
    updated and no device is asked.

    Where the collection `batch_moments` is mutable, the count, mean and variance of the
    layer's input are collected there, in training and in inference alike, and merged
    with those that it already holds: the exact moments of several batches, for
    `jaxnorm.tools`. A layer has them in one variable, a dict, again `batch_moments`. In
    such a pass `batch_stats` need not be mutable in training; if it is not, the running
    statistics stay.

    Attributes:
      use_running_average: False in training, True in inference; here or in the call.
      axis: The feature axis or axes.
      momentum: Weight of the old statistics, in [0, 1], or a function of the number of
        updates, for instance `jaxnorm.warmup_momentum()`. That number then lives in
        `batch_stats` as `count`, a float32 scalar.
      epsilon: Added to the variance; at least 0.
      dtype: Dtype of the result; by default what the input and parameters promote to.
      param_dtype: Dtype of scale and bias.
      use_bias: Whether a learned bias is added.
      use_scale: Whether to multiply by a learned scale.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scale.
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
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = nn.initializers.ones
    axis_name: str | Sequence[str] | None = None
    axis_index_groups: Groups | None = None
    use_fast_variance: bool = True
    force_float32_reductions: bool = True
    unbiased: bool = False
    skip_nonfinite: bool = False

    def feature_shape(self, x: Array) -> tuple[int, ...]:
        """Returns the sizes of the feature axes."""
        return sizes(x.shape, canonical_axes(self.axis, x.ndim, "axis"))

    def options(
        self, x: Array, use_running_average: bool | None, mask: Array | None
    ) -> BatchOptions:
        """Returns the keyword options that all functions of the family take."""
        initializing = self.is_initializing()
        return {
            "use_running_average": nn.merge_param(
                "use_running_average", self.use_running_average, use_running_average
            ),
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "feature_axes": canonical_axes(self.axis, x.ndim, "axis"),
            "mask": mask,
            "axis_name": None if initializing else self.axis_name,
            "axis_index_groups": None if initializing else self.axis_index_groups,
            "use_fast_variance": self.use_fast_variance,
            "unbiased": self.unbiased,
            "skip_nonfinite": self.skip_nonfinite,
            "dtype": self.dtype,
        }

    @property
    def stats_dtype(self) -> DTypeLike:
        """The dtype in which statistics are stored."""
        return jnp.float32 if self.force_float32_reductions else self.param_dtype

    def stats(
        self, feature_shape: tuple[int, ...], options: BatchOptions
    ) -> jaxnorm.BatchStats | jaxnorm.CountedBatchStats:
        """Returns the running mean and variance, with a count if momentum needs it."""
        initial = jaxnorm.init_batch_stats(
            feature_shape, self.stats_dtype, counted=self.counts(options)
        )
        return initial._replace(**self.read(initial._asdict()))

    def counts(self, options: BatchOptions) -> bool:
        """Returns whether the number of updates is needed."""
        # Inference has no use for it, and loads what lacks it.
        inference = options["use_running_average"] and not self.is_initializing()
        return callable(self.momentum) and not inference

    def read(self, initial: Mapping[str, Array]) -> dict[str, Array]:
        """Returns statistics of `batch_stats`, which start as given."""
        self._check_count(tuple(initial))
        # as arrays: a loaded checkpoint holds those of NumPy
        return {
            name: jnp.asarray(
                self.variable("batch_stats", name, lambda value=value: value).value
            )
            for name, value in initial.items()
        }

    def store(self, new: Mapping[str, Array], options: BatchOptions) -> None:
        """Stores new statistics, in training."""
        if options["use_running_average"] or self.is_initializing():
            return
        if self._collects and not self.is_mutable_collection("batch_stats"):
            return
        for name, value in new.items():
            self.put_variable("batch_stats", name, value)

    def collect(self, moments: Callable[[], jaxnorm.Moments]) -> None:
        """Merges moments of the input into `batch_moments`, if that is mutable.

        Args:
          moments: Computes them; called only if they are wanted.
        """
        if not self._collects:
            return
        merged = moments()
        # One variable, a dict: NNX joins collections, and mean and var have namesakes.
        if self.has_variable("batch_moments", "batch_moments"):
            stored: dict[str, Array] = self.get_variable(
                "batch_moments", "batch_moments"
            )
            merged = jaxnorm.merge_moments(jaxnorm.Moments(**stored), merged)
        self.put_variable("batch_moments", "batch_moments", merged._asdict())

    def moments(self, x: Array, options: BatchOptions) -> jaxnorm.Moments:
        """Returns the exact moments of the features that the batch normalizes."""
        return exact_moments(x, options)

    @property
    def _collects(self) -> bool:
        mutable = self.is_mutable_collection("batch_moments")
        return mutable and not self.is_initializing()

    def _check_count(self, names: tuple[str, ...]) -> None:
        missing = [name for name in names if not self.has_variable("batch_stats", name)]
        if missing == ["count"]:
            raise ValueError(
                "momentum as a function needs the number of updates, but batch_stats "
                f"of {self.name or 'this layer'} is without count. Add it: 0 for "
                "statistics to be forgotten soon, a large number for a plain average "
                "to go on; or pass a constant momentum."
            )


class BatchLayer(BatchModule):
    """A batch module that is called with x alone; its attributes are the same."""

    @nn.compact
    def __call__(
        self,
        x: Shaped[Array, "..."],
        use_running_average: bool | None = None,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of any shape, (batch, ...) where examples are told apart. Integers
            are converted to float32, as in Flax.
          use_running_average: False in training, True in inference.
          mask: Which elements count, or their weights; see `jaxnorm.batch_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        x = floating_input(x)
        options = self.options(x, use_running_average, mask)
        self.collect(lambda: self.moments(x, options))
        return self.normalize(x, options)

    def normalize(self, x: Array, options: BatchOptions) -> Array:
        """What a module adds: variables in, one functional call, variables out."""
        raise NotImplementedError
