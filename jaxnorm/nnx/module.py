"""Base classes that turn the description of a layer into an NNX module."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, dataclass_transform

from flax import nnx
from jax import Array

from jaxnorm._core.arguments.validation import check_shape
from jaxnorm._layers.call import copy_inherited_call
from jaxnorm._layers.constructor import with_parameters
from jaxnorm._layers.documentation import document_fields
from jaxnorm._layers.fields import Arrays
from jaxnorm.nnx.variables import (
    Parameter,
    PromoteDtype,
    as_static,
    created,
    keep_dtypes,
    read,
    show_signature,
)

# At run time, a class gets its fields from the description that is mixed into it.
if TYPE_CHECKING:
    from jaxnorm._layers.fields import Layer as _Layer
    from jaxnorm._layers.sample import SampleLayer as _SampleLayer
else:
    _SampleLayer = object

    class _Layer:
        """Stands where type checkers see the description, before `nnx.Module`."""


Metadata = Mapping[str, Any]


@dataclass_transform(
    kw_only_default=True, field_specifiers=(dataclasses.field, created)
)
class Described(_Layer, nnx.Module):
    """A module whose constructor takes the fields of a description by keyword."""

    _by_position: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        copy_inherited_call(cls)
        if "__init__" in vars(cls):  # a user's class with its own constructor
            return
        dataclasses.dataclass(kw_only=True, eq=False, repr=False)(cls)
        for field in dataclasses.fields(cls):  # type: ignore[arg-type]
            if inspect.isfunction(field.default):  # `nnx.tabulate` would see a method
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
                setattr(self, name, as_static(value))


class Module(Described):
    """A module with the parameters of a layer, each an `nnx.Param`, or None.

    Attributes:
      num_features: Size of the feature axis; for several axes, a tuple of their sizes,
        in the same order.
      promote_dtype: As in Flax, called with a tuple of the input, the statistics (in
        batch normalizers), scale and bias, and with `dtype`. Its results replace input,
        scale and bias; statistics are never rounded. The default keeps all arrays
        unchanged, because the functions compute in float32 or wider.
      bias_metadata: Metadata of the bias variable.
      scale_metadata: Metadata of the scale variable.
      rngs: Keys for the initializers.
      scale: `nnx.Param` of the feature shape, or None.
      bias: `nnx.Param` of the feature shape, or None.
    """

    if TYPE_CHECKING:  # tells type checkers what `_by_position` does
        num_features: int | tuple[int, ...] = dataclasses.field(kw_only=False)
    else:
        num_features: int | tuple[int, ...]
    promote_dtype: PromoteDtype = keep_dtypes
    bias_metadata: Metadata | None = None
    scale_metadata: Metadata | None = None
    rngs: nnx.Rngs
    scale: Parameter = created()
    bias: Parameter = created()

    _by_position: ClassVar[tuple[str, ...]] = ("num_features",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_shape(self.num_features, "num_features")
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
        # Initializers are deleted, because they would make the graphs of models differ.
        for name in [*vars(self)]:
            if name == "rngs" or name.endswith(("_init", "_metadata")):
                delattr(self, name)

    @property
    def _feature_shape(self) -> tuple[int, ...]:
        """The sizes of the feature axes."""
        sizes = self.num_features
        return sizes if isinstance(sizes, tuple) else (sizes,)

    def _params(self) -> Arrays:
        """Returns the parameters, with None for each that is not used."""
        return {name: read(getattr(self, name)) for name in self._parameter_names}

    def _promote(self, x: Array, *others: Array | None) -> tuple[Array, Arrays]:
        """Returns x and the parameters after `promote_dtype`.

        Args:
          x: Input.
          *others: Statistics of the features.

        Raises:
          ValueError: If x has other features than the layer was made for.
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
    """A module that normalizes each example separately."""

    def _normalize(self, x: Any, mask: Array | None = None, **inputs: Any) -> Any:
        """Reads the parameters and normalizes x."""
        x, params = self._promote(self._convert(x))
        return self._forward(x, params, self._options(x, mask) | inputs)
