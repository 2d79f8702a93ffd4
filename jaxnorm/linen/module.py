"""Base classes that turn the description of a layer into a Linen module."""

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
from jaxnorm._layers.call import copy_inherited_call
from jaxnorm._layers.documentation import document_fields
from jaxnorm._layers.fields import Arrays

# At run time, a class gets its fields from the description that is mixed into it.
if TYPE_CHECKING:
    from jaxnorm._layers.batch_layer import BatchLayer as _BatchLayer
    from jaxnorm._layers.fields import Layer as _Layer
    from jaxnorm._layers.sample import SampleLayer as _SampleLayer
else:
    _SampleLayer = _BatchLayer = object

    class _Layer:
        """Stands where type checkers see the description, before `nn.Module`."""


statistics_are_frozen = ContextVar("statistics_are_frozen", default=False)
"""Whether batch normalizers use their running statistics and never update them."""


class Module(_Layer, nn.Module):
    """A Linen module with the parameters of a layer."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        call = copy_inherited_call(cls)
        if call is not None:
            nn.compact(call)  # the call of a description creates variables
        super().__init_subclass__(**kwargs)
        document_fields(cls)

    def _features(self, x: Array) -> tuple[int, ...]:
        """Returns the sizes of the feature axes."""
        return sizes(x.shape, self._feature_axes(x))

    def _params(self, features: tuple[int, ...]) -> Arrays:
        """Returns the parameters, with None for each that is not used."""
        return {
            name: (
                None
                if wanted is None
                # A loaded checkpoint may hold NumPy arrays.
                else jnp.asarray(
                    self.param(name, wanted.init, wanted.shape, self.param_dtype)
                )
            )
            for name, wanted in self._parameters(features).items()
        }

    def _mapped(self, options: Any) -> Any:
        """Returns the options, without mapped axes during initialization.

        Initialization runs no collective, so no axis has to be bound.
        """
        if "axis_name" in options and self.is_initializing():
            return options | {"axis_name": None, "axis_index_groups": None}
        return options


class SampleModule(Module, _SampleLayer):
    """A module that normalizes each example separately."""

    def _normalize(self, x: Any, mask: Array | None = None, **inputs: Any) -> Any:
        """Reads the parameters and normalizes x."""
        x = self._convert(x)
        options = self._mapped(self._options(x, mask))
        return self._forward(x, self._params(self._features(x)), options | inputs)


class BatchModule(Module, _BatchLayer):
    """A module with running statistics in the collection `batch_stats`.

    Initialization updates no statistic and runs no collective.

    If the collection `batch_moments` is mutable, each call adds the count, mean and
    variance of the layer's input to it, in training and in inference. The moments of
    several batches are merged exactly, for `jaxnorm.tools`. Each layer stores them in
    one variable, a dict, which is also called `batch_moments`. In such a pass
    `batch_stats` need not be mutable in training; if it is not, the running statistics
    do not change.
    """

    def _normalize(
        self, x: Any, use_running_average: bool | None, mask: Array | None, **given: Any
    ) -> Array:
        """Reads variables, normalizes x, and stores new statistics and moments."""
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
        # Inference does not need the count, so checkpoints without it work.
        if self.is_initializing():
            counted = self._counts_updates()
        else:
            counted = callable(self.momentum) and not use_running_average
        initial = self._initial_stats(features, counted=counted)
        stats = initial._replace(**self._read(initial._asdict()))
        y, new = self._forward(x, stats, self._params(features), options)
        if not self.is_initializing():  # initialization may use a single example
            self._warn_of_single_values(x, options)
        self._store(new._asdict(), options)
        return y

    def _read(self, initial: Mapping[str, Array]) -> dict[str, Array]:
        """Returns the statistics in `batch_stats`, initialized to the given values."""
        self._check_count(tuple(initial))
        # as arrays: a loaded checkpoint holds those of NumPy
        return {
            name: jnp.asarray(
                self.variable("batch_stats", name, lambda value=value: value).value
            )
            for name, value in initial.items()
        }

    def _store(self, new: Mapping[str, Array], options: BatchOptions) -> None:
        """Stores new statistics in `batch_stats`, only in training."""
        if options["use_running_average"] or self.is_initializing():
            return
        if self._collects and not self.is_mutable_collection("batch_stats"):
            return
        for name, value in new.items():
            self.put_variable("batch_stats", name, value)

    def _collect(self, moments: Callable[[], jaxnorm.Moments]) -> None:
        """Merges the moments of the input into `batch_moments`, if it is mutable.

        Args:
          moments: Computes the moments; called only if they are collected.
        """
        if not self._collects:
            return
        merged = moments()
        # A dict in one variable, because NNX merges collections, and batch_stats also
        # has a mean and a var.
        if self.has_variable("batch_moments", "batch_moments"):
            stored: dict[str, Array] = self.get_variable(
                "batch_moments", "batch_moments"
            )
            merged = jaxnorm.merge_moments(jaxnorm.Moments(**stored), merged)
        self.put_variable("batch_moments", "batch_moments", merged._asdict())

    @property
    def _collects(self) -> bool:
        """Returns whether this call collects the moments of its input."""
        mutable = self.is_mutable_collection("batch_moments")
        return mutable and not self.is_initializing()

    def _check_count(self, names: tuple[str, ...]) -> None:
        """Raises ValueError if `batch_stats` lacks only the count."""
        missing = [name for name in names if not self.has_variable("batch_stats", name)]
        if missing == ["count"]:
            raise ValueError(
                f"batch_stats of {self.name or 'this layer'} must have a count, since "
                "momentum is a function of the number of updates, got none. Add count: "
                "0 to forget the old statistics soon, or a large number to continue a "
                "plain average. Or pass a constant momentum."
            )
