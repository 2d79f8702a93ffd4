"""What makes an NNX module of a layer's description: variables in, variables out."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from flax import nnx
from jax import Array
from jax import numpy as jnp
from jaxtyping import Shaped

import jaxnorm
from jaxnorm._layers.constructor import with_parameters
from jaxnorm._layers.documentation import document_fields
from jaxnorm._layers.fields import Arrays
from jaxnorm.nnx.variables import (
    PromoteDtype,
    hashable,
    keep_dtypes,
    read,
    show_signature,
)

# At run time a class has the fields of the one description that is mixed into it.
if TYPE_CHECKING:
    from jaxnorm._layers.batch import BatchLayer as _BatchLayer
    from jaxnorm._layers.fields import Layer as _Layer
    from jaxnorm._layers.sample import SampleLayer as _SampleLayer
else:
    _Layer = _SampleLayer = _BatchLayer = object

Metadata = Mapping[str, Any]


@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
class Described(nnx.Module, _Layer):
    """A module whose constructor takes the fields of a description by keyword."""

    _by_position: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):  # a user's class, with a constructor of its own
            return
        dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if inspect.isfunction(field.default):  # `nnx.tabulate` sees a method there
                setattr(cls, field.name, None)
        construct = cls.__init__
        own = dict(inspect.signature(construct).parameters)
        by_position = [
            own.pop(name).replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for name in ("self", *cls._by_position)
        ]
        by_keyword = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in own.values()
        ]
        cls.__init__ = with_parameters(  # type: ignore[method-assign]
            construct, by_position + by_keyword
        )
        show_signature(cls)
        document_fields(cls)

    def __post_init__(self) -> None:
        for name, value in vars(self).copy().items():
            if isinstance(value, list | tuple):
                setattr(self, name, hashable(value))


class Module(Described):
    """A module with the parameters of a layer, each an `nnx.Param`, or None.

    Attributes:
      num_features: Size of the feature axis; of several, a tuple of sizes in the order
        of the axes.
      promote_dtype: As in Flax, called with a tuple of the input, the statistics (of
        batch normalizers), scale and bias, and `dtype`; its results take the places of
        input, scale and bias. Statistics are never rounded. By default all are kept as
        they are, since the functions compute in float32 or wider.
      bias_metadata: Metadata of the variable that holds the bias.
      scale_metadata: Likewise of the scale.
      rngs: Keys for the initializers.
      scale: `nnx.Param` of the feature shape, or None.
      bias: Likewise.
    """

    if TYPE_CHECKING:  # what `_by_position` does
        num_features: int | tuple[int, ...] = dataclasses.field(kw_only=False)
    else:
        num_features: int | tuple[int, ...]
    promote_dtype: PromoteDtype = keep_dtypes
    bias_metadata: Metadata | None = None
    scale_metadata: Metadata | None = None
    rngs: nnx.Rngs

    _by_position: ClassVar[tuple[str, ...]] = ("num_features",)

    def __post_init__(self) -> None:
        super().__post_init__()
        parameters = self._parameters(self._feature_shape)
        self._parameter_names = tuple(parameters)
        for name, parameter in parameters.items():
            metadata = getattr(self, f"{name}_metadata", None) or {}
            variable = nnx.data(None)
            if parameter is not None:
                init, shape = parameter
                value = init(self.rngs.params(), shape, self.param_dtype)
                variable = nnx.Param(value, **metadata)
            setattr(self, name, variable)
        # What made the variables is no part of the model, whose graph would differ.
        for name in [*vars(self)]:
            if name == "rngs" or name.endswith(("_init", "_metadata")):
                delattr(self, name)

    @property
    def _feature_shape(self) -> tuple[int, ...]:
        """The sizes of the feature axes."""
        sizes = self.num_features
        return sizes if isinstance(sizes, tuple) else (sizes,)

    def _params(self) -> Arrays:
        """Returns the parameters, None for one that is not used."""
        return {name: read(getattr(self, name)) for name in self._parameter_names}

    def _promote(self, x: Array, *others: Array | None) -> tuple[Array, Arrays]:
        """Returns x and the parameters in the dtypes that they are used in.

        Args:
          x: Input.
          *others: Statistics of the features.

        Raises:
          ValueError: If x has not the features that the layer was made for.
        """
        self._check(x, *others)
        params = self._params()
        affine = [name for name in ("scale", "bias") if name in params]
        arrays = (x, *others, *(params[name] for name in affine))
        x, *promoted = self.promote_dtype(arrays, dtype=self.dtype)
        last = promoted[len(others) :]
        return x, params | dict(zip(affine, last, strict=True))

    def _check(self, x: Array, *statistics: Array | None) -> None:
        """Checks that x has the features that the layer was made for."""
        params = self._params()
        held = params.get("scale"), params.get("bias"), *statistics
        self._check_features(x, self._feature_shape, held)


class SampleModule(Module, _SampleLayer):
    """A module that normalizes each example by itself."""

    def __call__(
        self, x: Shaped[Array, "..."], *, mask: Shaped[Array, "..."] | None = None
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of any shape, (batch, ...) where examples are told apart.
          mask: Which elements count, or their weights; see `jaxnorm.layer_norm`.

        Returns:
          The normalized input, of the shape of x.
        """
        return self._normalize(x, mask)

    def _normalize(self, x: Any, mask: Array | None = None) -> Any:
        x, params = self._promote(self._convert(x))
        return self._forward(x, params, self._options(x, mask))


class BatchMoment(nnx.Variable[Array]):
    """Moments of what a layer has seen, while `collect_moments` is set."""


class BatchModule(Module, _BatchLayer):
    """A module with running statistics, each an `nnx.BatchStat`.

    In training, where `use_running_average` is False, a call moves them.

    Attributes:
      use_running_average: False in training, True in inference; what `train()`,
        `eval()` and `nnx.view` set, unless the call says it.
      momentum: Weight of the old statistics, in [0, 1], or a function of the number of
        updates, which then is the `nnx.BatchStat` `count`. If you load statistics that
        were not counted, set `count` as well: at 0, they are soon forgotten.
      collect_moments: Whether calls, in training and in inference, collect the moments
        of their input. May be set later, by `model.set_attributes` or `nnx.view`; set
        to False, it drops what was collected.
      frozen_statistics: Whether the statistics are used and stay, whatever
        `use_running_average` is, and whoever says it; what `freeze_statistics` sets.
      batch_moments: None, or `BatchMoment` by the names count, mean and var: of all
        inputs since `collect_moments` was set.
    """

    use_running_average: bool | None = False
    collect_moments: bool = False
    frozen_statistics: bool = dataclasses.field(default=False, init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        initial = self._initial_stats(
            self._feature_shape, counted=callable(self.momentum)
        )
        self._stats_type = type(initial)
        for name, value in initial._asdict().items():
            setattr(self, name, nnx.BatchStat(value))
        self.batch_moments: dict[str, BatchMoment] | None = nnx.data(None)
        self.collect_moments = self.collect_moments  # makes the variables

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        # Here, so that no call changes the structure of a model.
        if name == "collect_moments" and hasattr(self, "batch_moments"):
            if not value:
                self.batch_moments = nnx.data(None)
            elif self.batch_moments is None:
                empty = jnp.zeros(self._stats()[0].shape, jnp.float32)
                self.batch_moments = nnx.data(
                    {name: BatchMoment(empty) for name in jaxnorm.Moments._fields}
                )

    def _stats(self) -> Any:
        """Returns the running statistics as the functions take them."""
        names = self._stats_type._fields
        return self._stats_type(**{name: read(getattr(self, name)) for name in names})

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

    def _normalize(
        self,
        x: Any,
        use_running_average: bool | None,
        mask: Array | None,
        **inputs: Any,
    ) -> Array:
        stats = self._stats()
        of_features = (v for name, v in stats._asdict().items() if name != "count")
        x, params = self._promote(self._convert(x), *of_features)
        use_running_average = self._uses_running_average(use_running_average)
        options: Any = self._options(x, use_running_average, mask) | inputs
        if self.batch_moments is not None:
            stored = {name: read(value) for name, value in self.batch_moments.items()}
            new = jaxnorm.merge_moments(
                jaxnorm.Moments(**stored), self._moments(x, options)
            )
            for name, value in new._asdict().items():
                self.batch_moments[name].set_value(value)
        y, stats = self._forward(x, stats, params, options)
        if not use_running_average:
            for name, value in stats._asdict().items():
                getattr(self, name).set_value(value)
        return y

    def _uses_running_average(self, said: bool | None) -> bool:
        if self.frozen_statistics:
            return True
        use_running_average = self.use_running_average if said is None else said
        if use_running_average is None:
            # begins in the words of Flax, which callers may look for
            raise ValueError(
                "No `use_running_average` argument was provided to "
                f"{type(self).__name__}. Pass it to the constructor or to the call, or "
                "set it: model.train(), model.eval(), "
                "nnx.view(model, use_running_average=True)"
            )
        return use_running_average


class BatchInputModule(BatchModule):
    """A batch module that is called with x alone."""

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
        return self._normalize(x, use_running_average, mask)
