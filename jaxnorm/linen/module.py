"""What makes a Linen module of a layer's description: variables in, variables out."""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from flax import linen as nn
from jax import Array
from jax import numpy as jnp

import jaxnorm
from jaxnorm._core.arguments.axes import sizes
from jaxnorm._core.arguments.validation import check_flags
from jaxnorm._core.batch_options import BatchOptions
from jaxnorm._layers.batch_layer import BatchLayer
from jaxnorm._layers.call import own_call
from jaxnorm._layers.documentation import document_fields
from jaxnorm._layers.fields import Arrays
from jaxnorm._layers.sample import SampleLayer

# At run time a class has the fields of the one description that is mixed into it.
if TYPE_CHECKING:
    from jaxnorm._layers.batch_layer import BatchLayer as _BatchLayer
    from jaxnorm._layers.fields import Layer as _Layer
    from jaxnorm._layers.sample import SampleLayer as _SampleLayer
else:
    _Layer = _SampleLayer = _BatchLayer = object

statistics_are_frozen = ContextVar("statistics_are_frozen", default=False)
"""Whether batch normalizers use and keep their statistics, whatever they are told."""


class Module(nn.Module, _Layer):
    """A Linen module with the parameters of a layer."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        own_call(cls)
        super().__init_subclass__(**kwargs)
        document_fields(cls)

    def _features(self, x: Array) -> tuple[int, ...]:
        """Returns the sizes of the feature axes."""
        return sizes(x.shape, self._feature_axes(x))

    def _params(self, features: tuple[int, ...]) -> Arrays:
        """Returns the parameters, None for one that is not used."""
        return {
            name: (
                None
                if wanted is None
                # as an array: a loaded checkpoint holds those of NumPy
                else jnp.asarray(
                    self.param(name, wanted.init, wanted.shape, self.param_dtype)
                )
            )
            for name, wanted in self._parameters(features).items()
        }

    def _mapped(self, options: Any) -> Any:
        """Returns options without mapped axes while initializing.

        No collective runs then, so that no axis has to be bound.
        """
        if "axis_name" in options and self.is_initializing():
            return options | {"axis_name": None, "axis_index_groups": None}
        return options


class SampleModule(Module, _SampleLayer):
    """A module that normalizes each example by itself."""

    __call__ = nn.compact(SampleLayer.__call__)

    def _normalize(self, x: Any, mask: Array | None = None, **inputs: Any) -> Any:
        x = self._convert(x)
        options = self._mapped(self._options(x, mask))
        return self._forward(x, self._params(self._features(x)), options | inputs)


class BatchModule(Module, _BatchLayer):
    """A module with running statistics in the collection `batch_stats`.

    While initializing, no statistic is updated and no collective runs.

    Where the collection `batch_moments` is mutable, the count, mean and variance of the
    layer's input are collected there, in training and in inference alike, and merged
    with those that it already holds: the exact moments of several batches, for
    `jaxnorm.tools`. A layer has them in one variable, a dict, again `batch_moments`. In
    such a pass `batch_stats` need not be mutable in training; if it is not, the running
    statistics stay.
    """

    __call__ = nn.compact(BatchLayer.__call__)

    def _normalize(
        self, x: Any, use_running_average: bool | None, mask: Array | None, **given: Any
    ) -> Array:
        x = self._convert(x)
        features = self._features(x)
        use_running_average = nn.merge_param(
            "use_running_average", self.use_running_average, use_running_average
        )
        check_flags(use_running_average=use_running_average)
        if statistics_are_frozen.get():
            use_running_average = True
        options = self._mapped(self._options(x, use_running_average, mask)) | given
        self._collect(lambda: self._moments(x, options))
        # Inference has no use for the number of updates, and loads what lacks it.
        if self.is_initializing():
            counted = self._counts_updates()
        else:
            counted = callable(self.momentum) and not use_running_average
        initial = self._initial_stats(features, counted=counted)
        stats = initial._replace(**self._read(initial._asdict()))
        y, new = self._forward(x, stats, self._params(features), options)
        if not self.is_initializing():  # with any number of examples
            self._warn_of_single_values(x, options)
        self._store(new._asdict(), options)
        return y

    def _read(self, initial: Mapping[str, Array]) -> dict[str, Array]:
        """Returns statistics of `batch_stats`, which start as given."""
        self._check_count(tuple(initial))
        # as arrays: a loaded checkpoint holds those of NumPy
        return {
            name: jnp.asarray(
                self.variable("batch_stats", name, lambda value=value: value).value
            )
            for name, value in initial.items()
        }

    def _store(self, new: Mapping[str, Array], options: BatchOptions) -> None:
        """Stores new statistics, in training."""
        if options["use_running_average"] or self.is_initializing():
            return
        if self._collects and not self.is_mutable_collection("batch_stats"):
            return
        for name, value in new.items():
            self.put_variable("batch_stats", name, value)

    def _collect(self, moments: Callable[[], jaxnorm.Moments]) -> None:
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
