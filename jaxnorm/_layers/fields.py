"""What the descriptions of all layers share: dtypes, scale and bias."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple, TypeVar, dataclass_transform

from jax import Array
from jax.nn.initializers import Initializer
from jax.typing import DTypeLike

from jaxnorm._core.arguments.axes import canonical_axes, sizes
from jaxnorm._core.arrays.dtypes import check_dtype, check_inexact, floating_input


class Parameter(NamedTuple):
    """A learned array that is yet to be made.

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
    """Makes a class a dataclass that is compared by identity."""
    return dataclasses.dataclass(eq=False, repr=False)(cls)


class Layer:
    """A layer without a framework. Subclasses define the fields that they use.

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

    _function: ClassVar[Callable[..., Any]]
    """The function that the layer calls."""
    _own_options: ClassVar[tuple[str, ...]] = ()
    """Fields that this function takes, and functions of similar layers do not."""
    _axes_field: ClassVar[str] = "feature_axes"
    _optional: ClassVar[tuple[str, ...]] = ("scale", "bias")
    """Parameters with a field `use_...`, whose initializer is the field `..._init`."""
    _required: ClassVar[tuple[str, ...]] = ()
    """Parameters that always exist; their initializer is the field `..._init`."""
    _takes_integers: ClassVar[bool] = True
    """Whether integers are converted to float32, as in Flax."""

    def _call(self, *arrays: Any, **options: Any) -> Any:
        """Calls the function; given options override fields of the same name."""
        own = {name: getattr(self, name) for name in self._own_options}
        return self._function(*arrays, **(own | options))

    def _feature_axes(self, x: Array) -> tuple[int, ...]:
        """Returns the axes of the features, ascending."""
        axes = getattr(self, self._axes_field)
        return canonical_axes(axes, x.ndim, self._axes_field)

    def _convert(self, x: Any) -> Array:
        """Returns the input as an array that the layer takes."""
        return floating_input(x) if self._takes_integers else check_inexact(x, "x")

    def _parameters(self, features: tuple[int, ...]) -> Parameters:
        """Returns the parameters of the layer by name, with None for each unused one.

        Args:
          features: Sizes of the feature axes.
        """
        names = (*self._optional, *self._required)
        if names:
            check_dtype(self.param_dtype, "param_dtype")
        unused = [n for n in self._optional if not getattr(self, f"use_{n}")]
        return {
            name: None
            if name in unused
            else Parameter(self._initializer(name), self._shape(name, features))
            for name in names
        }

    def _shape(self, name: str, features: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of a parameter."""
        return features

    def _initializer(self, name: str) -> Initializer:
        """Returns the initializer of a parameter."""
        init: Initializer = getattr(self, f"{name}_init")
        return init

    def _check_features(
        self,
        x: Array,
        features: tuple[int, ...],
        held: Iterable[Array | None],
    ) -> None:
        """Checks that x has the features that the layer was made for.

        Arrays of the layer may have other sizes: on a device with part of the features,
        or with one scale for each example. The functions check x against the arrays.

        Args:
          x: Input.
          features: The sizes of the feature axes.
          held: Arrays of the layer that have these features; None is skipped.

        Raises:
          ValueError: If x has other sizes.
        """
        axes = self._feature_axes(x)
        given = sizes(x.shape, axes)
        rank = len(axes)  # before the features of statistics there may be time steps
        shapes = [value.shape[-rank:] for value in held if value is not None]
        # without arrays and mapped axes, nothing else checks x
        may_differ = shapes or getattr(self, "axis_name", None)
        if given != features and (features in shapes or not may_differ):
            expected, number = (
                shape[0] if len(shape) == 1 else shape for shape in (features, given)
            )
            name = self._axes_field
            raise ValueError(
                f"the input must have num_features={expected} along {name}="
                f"{getattr(self, name)}, got {number} in the shape {x.shape}. Make the "
                f"layer for its input, {type(self).__name__}({number}, ...), or set "
                f"{name}."
            )
