"""What the descriptions of all layers share: dtypes, scale and bias."""

import dataclasses
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

from jax import Array
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from jaxnorm.core.axes import canonical_axes
from jaxnorm.core.dtypes import floating_input


class Parameter(NamedTuple):
    """A learned array before it is made.

    Attributes:
      init: Its initializer.
      shape: Its shape.
    """

    init: Initializer
    shape: tuple[int, ...]


_T = TypeVar("_T")
Parameters = dict[str, Parameter | None]
"""Parameters before they are made; None for one that is not used."""
Arrays = dict[str, Any]
"""Parameters by name, None for one that is not used."""


# To type checkers all fields are keywords, as they are in NNX.
@dataclass_transform(kw_only_default=True, field_specifiers=(dataclasses.field,))
def description(cls: type[_T]) -> type[_T]:
    """Makes a class a dataclass whose equality is identity."""
    return dataclasses.dataclass(eq=False, repr=False)(cls)


class Layer:
    """A layer without a framework. The classes that are ones have all its fields.

    Attributes:
      dtype: Dtype of the result; by default what the input and parameters promote to.
      param_dtype: Dtype of the parameters.
      use_bias: Whether a learned bias is added.
      use_scale: Whether to multiply by a learned scale.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scale.
    """

    dtype: DTypeLike | None
    param_dtype: DTypeLike

    _axes_field: ClassVar[str] = "feature_axes"
    _optional: ClassVar[tuple[str, ...]] = ("scale", "bias")
    """Parameters with a field `use_...`, whose initializer is the field `..._init`."""

    def _feature_axes(self, x: Array) -> tuple[int, ...]:
        """Returns the axes of the features, ascending."""
        axes = getattr(self, self._axes_field)
        return canonical_axes(axes, x.ndim, self._axes_field)

    def _convert(self, x: Any) -> Array:
        """Returns the input as an array that the layer takes."""
        return floating_input(x)

    def _parameters(self, features: tuple[int, ...]) -> Parameters:
        """Returns what the layer learns.

        Args:
          features: Sizes of the feature axes.
        """
        return {
            name: (
                Parameter(self._initializer(name), features)
                if getattr(self, f"use_{name}")
                else None
            )
            for name in self._optional
        }

    def _initializer(self, name: str) -> Initializer:
        """Returns the initializer of a parameter that is optional."""
        init: Initializer = getattr(self, f"{name}_init")
        return init
