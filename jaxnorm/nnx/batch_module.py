"""What all modules with running statistics share."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import jax
from flax import nnx
from jax import Array
from jax import numpy as jnp
from jaxtyping import Shaped

import jaxnorm
from jaxnorm.batch.call import BatchOptions, exact_moments
from jaxnorm.core.axes import Axes, canonical_axes
from jaxnorm.core.collectives import Groups
from jaxnorm.core.dtypes import floating_input
from jaxnorm.core.momentum import Schedule
from jaxnorm.nnx.affine import AffineModule, AffineOptions, hashable, read


class BatchMoment(nnx.Variable[Array]):
    """Moments of what a layer has seen, while `collect_moments` is set."""


class BatchModuleOptions(AffineOptions, total=False):
    """The constructor's options of `BatchModule`, for classes that hand them on."""

    use_running_average: bool | None
    axis: Axes
    momentum: float | Schedule
    epsilon: float
    axis_name: str | Sequence[str] | None
    axis_index_groups: Groups | None
    use_fast_variance: bool
    unbiased: bool
    skip_nonfinite: bool
    collect_moments: bool


class BatchModule(AffineModule):
    """The attributes of a batch normalizer, and its running statistics.

    The statistics are `nnx.BatchStat`, in float32; in training, where
    `use_running_average` is False, a call moves them.

    Attributes are those of `jaxnorm.linen.batch_module.BatchModule`, without
    `force_float32_reductions`, of `AffineModule`, and:

    Attributes:
      use_running_average: False in training, True in inference; what `train()`,
        `eval()` and `nnx.view` set, unless the call says it.
      frozen_statistics: Whether the statistics are used and stay, whatever
        `use_running_average` is, and whoever says it; what `freeze_statistics` sets.
      momentum: Weight of the old statistics, in [0, 1], or a function of the number of
        updates, which then is the `nnx.BatchStat` `count`. If you load statistics that
        were not counted, set `count` as well: at 0, they are soon forgotten.
      batch_moments: None, or `BatchMoment` by the names count, mean and var: while
        `collect_moments` is set, of all inputs since it was.
    """

    _axes_attribute = "axis"

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        use_running_average: bool | None = False,
        axis: Axes = -1,
        momentum: float | Schedule = 0.99,
        epsilon: float = 1e-5,
        axis_name: str | Sequence[str] | None = None,
        axis_index_groups: Groups | None = None,
        use_fast_variance: bool = True,
        unbiased: bool = False,
        skip_nonfinite: bool = False,
        collect_moments: bool = False,
        rngs: nnx.Rngs,
        **affine: Unpack[AffineOptions],
    ) -> None:
        super().__init__(num_features, rngs=rngs, **affine)
        self.use_running_average = use_running_average
        self.frozen_statistics = False
        self.axis = hashable(axis)
        self.momentum = momentum
        self.epsilon = epsilon
        self.axis_name = hashable(axis_name)
        self.axis_index_groups = hashable(axis_index_groups)
        self.use_fast_variance = use_fast_variance
        self.unbiased = unbiased
        self.skip_nonfinite = skip_nonfinite
        initial = self._init_stats(counted=callable(momentum))
        self.stats_type = type(initial)
        for name, value in initial._asdict().items():
            setattr(self, name, nnx.BatchStat(value))
        self.batch_moments: dict[str, BatchMoment] | None = nnx.data(None)
        self.collect_moments = collect_moments

    def _init_stats(self, *, counted: bool) -> Any:
        """Returns the running statistics before the first update, a NamedTuple."""
        return jaxnorm.init_batch_stats(self.feature_shape, counted=counted)

    def _stats(self) -> Any:
        """Returns the running statistics as the functions take them."""
        names = self.stats_type._fields
        return self.stats_type(**{name: read(getattr(self, name)) for name in names})

    @property
    def collect_moments(self) -> bool:
        """Whether calls, in training and in inference, collect their input's moments.

        To be set in the constructor, or later by `model.set_attributes` or `nnx.view`.
        Set to False, it drops what was collected.
        """
        return self.batch_moments is not None

    @collect_moments.setter
    def collect_moments(self, value: bool) -> None:
        # The variables are made here, so that no call changes the structure of a model.
        if value and self.batch_moments is None:
            shape = self._stats()[0].shape
            self.batch_moments = nnx.data(
                {
                    name: BatchMoment(jnp.zeros(shape, jnp.float32))
                    for name in jaxnorm.Moments._fields
                }
            )
        elif not value:
            self.batch_moments = nnx.data(None)

    def set_view(
        self,
        use_running_average: bool | None = None,
        collect_moments: bool | None = None,
    ) -> None:
        """Sets what `nnx.view` asks for.

        Args:
          use_running_average: False in training, True in inference.
          collect_moments: Whether to collect the moments of the input.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if collect_moments is not None:
            self.collect_moments = collect_moments

    def _options(
        self, x: Array, use_running_average: bool | None, mask: Array | None
    ) -> BatchOptions:
        """Returns the keyword options that all functions of the family take."""
        if use_running_average is None:
            use_running_average = self.use_running_average
        if self.frozen_statistics:
            use_running_average = True
        if use_running_average is None:
            # begins in the words of Flax, which callers may look for
            raise ValueError(
                "No `use_running_average` argument was provided to "
                f"{type(self).__name__}. Pass it to the constructor or to the call, or "
                "set it: model.train(), model.eval(), "
                "nnx.view(model, use_running_average=True)"
            )
        return {
            "use_running_average": use_running_average,
            "momentum": self.momentum,
            "epsilon": self.epsilon,
            "feature_axes": canonical_axes(self.axis, x.ndim, "axis"),
            "mask": mask,
            "axis_name": self.axis_name,
            "axis_index_groups": self.axis_index_groups,
            "use_fast_variance": self.use_fast_variance,
            "unbiased": self.unbiased,
            "skip_nonfinite": self.skip_nonfinite,
            "dtype": self.dtype,
        }

    def _run(
        self,
        normalize: Callable[..., tuple[Array, Any]],
        x: Array,
        use_running_average: bool | None,
        mask: Array | None,
        index: tuple[Array, ...] = (),
    ) -> Array:
        """Variables in, one functional call, variables out.

        Args:
          normalize: Given x, statistics, scale, bias and options, returns y and the new
            statistics.
          x: Input.
          use_running_average: Of the call.
          mask: Of the call.
          index: Which of the layer's statistics are those of this input; () for all.
        """
        x = floating_input(x)
        stats = self._stats()
        x, scale, bias = self._promote(
            x, *(value for name, value in stats._asdict().items() if name != "count")
        )
        options = self._options(x, use_running_average, mask)
        if self.batch_moments is not None:
            self._collect(self.batch_moments, self._moments(x, options), index)
        y, new = normalize(x, stats, scale, bias, **options)
        if not options["use_running_average"]:
            for name, value in new._asdict().items():
                getattr(self, name).set_value(value)
        return y

    def _moments(self, x: Array, options: BatchOptions) -> jaxnorm.Moments:
        """Returns the exact moments of the features that the batch normalizes."""
        return exact_moments(x, options)

    def _collect(
        self,
        collected: dict[str, BatchMoment],
        new: jaxnorm.Moments,
        index: tuple[Array, ...],
    ) -> None:
        old = jaxnorm.Moments(**{name: read(v) for name, v in collected.items()})
        own = jaxnorm.merge_moments(jax.tree.map(lambda leaf: leaf[index], old), new)
        for name, whole, value in zip(old._fields, old, own, strict=True):
            merged = whole.astype(value.dtype).at[index].set(value)
            collected[name].set_value(merged)


class BatchLayer(BatchModule):
    """A batch module that is called with x alone; its attributes are the same."""

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
        return self._run(self._normalize, x, use_running_average, mask)

    def _normalize(
        self,
        x: Array,
        stats: Any,
        scale: Array | None,
        bias: Array | None,
        **options: Unpack[BatchOptions],
    ) -> tuple[Array, Any]:
        """What a module adds: one functional call."""
        raise NotImplementedError
