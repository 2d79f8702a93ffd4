"""Base class of NNX modules with running statistics."""

import dataclasses
from typing import TYPE_CHECKING, Any

from flax import nnx
from jax import Array
from jax import numpy as jnp

import jaxnorm
from jaxnorm._core.arguments.validation import check_flags
from jaxnorm.nnx.module import Module
from jaxnorm.nnx.variables import Statistic, created, read

if TYPE_CHECKING:  # as in module.py
    from jaxnorm._layers.batch_layer import BatchLayer as _BatchLayer
else:
    _BatchLayer = object


class BatchMoment(nnx.Variable[Array]):
    """Moments of the inputs of a layer since `collect_moments` was set."""


class BatchModule(Module, _BatchLayer):
    """A module with running statistics, each an `nnx.BatchStat`.

    Each call updates them in training, that is, if `use_running_average` is False.

    Attributes:
      use_running_average: False in training, True in inference. `train()`, `eval()` and
        `nnx.view` set it; a call may override it.
      momentum: Weight of the old statistics, in [0, 1], or a function of the number of
        updates, which is then the `nnx.BatchStat` `count`. If you load statistics
        without a count, set `count` as well: with 0, they are soon forgotten.
      collect_moments: Whether calls, in training and in inference, collect the moments
        of their input. It can be set later, by `model.set_attributes` or `nnx.view`.
        Setting it to False drops the collected moments.
      frozen_statistics: Whether the running statistics are used and never updated,
        whatever `use_running_average` is. `freeze_statistics` sets it.
      batch_moments: None, or a dict of `BatchMoment` variables, count, mean and var:
        the moments of all inputs since `collect_moments` was set.
    """

    use_running_average: bool | None = False
    collect_moments: bool = False
    frozen_statistics: bool = dataclasses.field(default=False, init=False)
    mean: Statistic = created()
    var: Statistic = created()
    count: Statistic = created()

    def __post_init__(self) -> None:
        super().__post_init__()
        counted = self._counts_updates()
        initial = self._initial_stats(self._feature_shape, counted=counted)
        self._stats_type = type(initial)
        for name, value in initial._asdict().items():
            setattr(self, name, nnx.BatchStat(value))
        self.batch_moments: dict[str, BatchMoment] | None = nnx.data(None)
        self.collect_moments = self.collect_moments  # makes the variables

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # Created here, so that no call changes the structure of a model.
        if name == "collect_moments" and hasattr(self, "batch_moments"):
            if not value:
                self.batch_moments = nnx.data(None)
            elif self.batch_moments is None:
                empty = jnp.zeros(self._stats()[0].shape, jnp.float32)
                self.batch_moments = nnx.data(
                    {name: BatchMoment(empty) for name in jaxnorm.Moments._fields}
                )

    def _stats(self) -> Any:
        """Returns the running statistics as a NamedTuple of arrays."""
        names = self._stats_type._fields
        return self._stats_type(**{name: read(getattr(self, name)) for name in names})

    def set_view(
        self,
        use_running_average: bool | None = None,
        collect_moments: bool | None = None,
    ) -> None:
        """Sets the attributes that `nnx.view` passes.

        Args:
          use_running_average: False in training, True in inference.
          collect_moments: Whether to collect the moments of the input.
        """
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if collect_moments is not None:
            self.collect_moments = collect_moments

    def _normalize(
        self, x: Any, use_running_average: bool | None, mask: Array | None, **given: Any
    ) -> Array:
        """Reads variables, normalizes x, and sets new statistics and moments."""
        stats = self._stats()
        of_features = (v for name, v in stats._asdict().items() if name != "count")
        x, params = self._promote(self._convert(x), *of_features)
        use_running_average = self._uses_running_average(use_running_average)
        options: Any = self._options(x, use_running_average, mask) | given
        if self.batch_moments is not None:
            stored = {name: read(value) for name, value in self.batch_moments.items()}
            new = jaxnorm.merge_moments(
                jaxnorm.Moments(**stored), self._moments(x, options)
            )
            for name, value in new._asdict().items():
                self.batch_moments[name].set_value(value)
        y, stats = self._forward(x, stats, params, options)
        self._warn_of_single_values(x, options)
        if not use_running_average:
            for name, value in stats._asdict().items():
                getattr(self, name).set_value(value)
        return y

    def _uses_running_average(self, argument: bool | None) -> bool:
        """Returns whether this call normalizes with running statistics."""
        if argument is not None:
            check_flags(use_running_average=argument)
        if self.frozen_statistics:
            return True
        use_running_average = self.use_running_average if argument is None else argument
        if use_running_average is None:
            # Starts like Flax's message, which callers may match.
            raise ValueError(
                "No `use_running_average` argument was provided to "
                f"{type(self).__name__}. Pass it to the constructor or to the call, or "
                "set it: model.train(), model.eval(), "
                "nnx.view(model, use_running_average=True)"
            )
        return use_running_average
