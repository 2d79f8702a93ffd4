"""What all normalizing modules share: scale and bias, and the dtypes they meet x in."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypedDict, overload

from flax import nnx
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm.core.axes import canonical_axes, sizes

PromoteDtype = Callable[..., tuple[Any, ...]]
Metadata = Mapping[str, Any]
_NO_METADATA: Metadata = MappingProxyType({})


def keep_dtypes(
    arrays: tuple[Any, ...], *, dtype: DTypeLike | None = None
) -> tuple[Any, ...]:
    """Returns the arrays as they are: the default of `promote_dtype`.

    The functions compute in float32 or wider, and round the result, once. What Flax
    does by default, `flax.nnx.nn.dtypes.promote_dtype`, rounds the input to `dtype`
    before its mean is subtracted.

    Args:
      arrays: The input, statistics where there are some, scale and bias; any may be
        None.
      dtype: Dtype of the result.
    """
    del dtype
    return arrays


class AffineOptions(TypedDict, total=False):
    """The constructor's options of `AffineModule`, for classes that hand them on."""

    dtype: DTypeLike | None
    param_dtype: DTypeLike
    use_bias: bool
    use_scale: bool
    bias_init: Initializer
    scale_init: Initializer
    promote_dtype: PromoteDtype
    bias_metadata: Metadata
    scale_metadata: Metadata


class AffineModule(nnx.Module):
    """A module with the parameters `scale` and `bias`.

    Attributes:
      scale: `nnx.Param` of the feature shape, or None.
      bias: Likewise.
      num_features: Size of the feature axis; of several, a tuple of sizes in the order
        of the axes.
      dtype: Dtype of the result; by default what the input and parameters promote to.
      param_dtype: Dtype of the parameters.
      use_bias: Whether a learned bias is added.
      use_scale: Whether to multiply by a learned scale.
      promote_dtype: As in Flax, called with a tuple of the input, the statistics (of
        batch normalizers), scale and bias, and `dtype`; its results take the places of
        input, scale and bias. Statistics are never rounded. By default `keep_dtypes`.
    """

    scale: nnx.Param[Array] | None
    bias: nnx.Param[Array] | None
    axis_name: Any = None  # of the classes that share statistics between devices
    _axes_attribute: ClassVar[str] = "feature_axes"  # where Flax's name is another

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        use_bias: bool = True,
        use_scale: bool = True,
        bias_init: Initializer = nnx.initializers.zeros,
        scale_init: Initializer = nnx.initializers.ones,
        promote_dtype: PromoteDtype = keep_dtypes,
        bias_metadata: Metadata = _NO_METADATA,
        scale_metadata: Metadata = _NO_METADATA,
        rngs: nnx.Rngs,
    ) -> None:
        self.num_features = num_features
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.use_bias = use_bias
        self.use_scale = use_scale
        self.promote_dtype = promote_dtype
        self.scale = nnx.data(None)
        self.bias = nnx.data(None)
        # In Flax's order, so that the same rngs draw the same numbers.
        if use_scale:
            self.scale = self._draw(scale_init, rngs, **scale_metadata)
        if use_bias:
            self.bias = self._draw(bias_init, rngs, **bias_metadata)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """The sizes of the feature axes."""
        sizes = self.num_features
        return sizes if isinstance(sizes, tuple) else (sizes,)

    def _draw(
        self,
        init: Initializer,
        rngs: nnx.Rngs,
        shape: tuple[int, ...] | None = None,
        **metadata: Any,
    ) -> nnx.Param[Array]:
        """Returns a new parameter, of the feature shape unless told otherwise."""
        shape = self.feature_shape if shape is None else shape
        return nnx.Param(init(rngs.params(), shape, self.param_dtype), **metadata)

    def _promote(
        self, x: Array, *statistics: Array | None
    ) -> tuple[Array, Array | None, Array | None]:
        """Returns x, scale and bias in the dtypes that they are used in.

        Raises:
          ValueError: If x has not the features that the layer was made for.
        """
        self._check_features(x, *statistics)
        arrays = (x, *statistics, read(self.scale), read(self.bias))
        x, *_, scale, bias = self.promote_dtype(arrays, dtype=self.dtype)
        return x, scale, bias

    def _check_features(self, x: Array, *statistics: Array | None) -> None:
        """Checks that x has `num_features` features.

        Variables may differ from that: on a device that has a part of the features, or
        with one scale an example. The functions check x against those.

        Raises:
          ValueError: If x has another number.
        """
        name = self._axes_attribute
        axes = canonical_axes(getattr(self, name), x.ndim, name)
        given = sizes(x.shape, axes)
        held = (read(self.scale), read(self.bias), *statistics)
        rank = len(axes)  # before the features of statistics there may be time steps
        shapes = [value.shape[-rank:] for value in held if value is not None]
        may_differ = shapes or self.axis_name  # without either, nothing else tells
        fits = given == self.feature_shape
        if not fits and (self.feature_shape in shapes or not may_differ):
            number = given[0] if len(given) == 1 else given
            raise ValueError(
                f"the input must have num_features={self.num_features} along {name}="
                f"{getattr(self, name)}, got {number} in the shape {x.shape}. Make the "
                f"layer for its input, {type(self).__name__}({number}, ...), or set "
                f"{name}."
            )


@overload
def read(variable: nnx.Variable[Array]) -> Array: ...
@overload
def read(variable: nnx.Variable[Array] | None) -> Array | None: ...
def read(variable: nnx.Variable[Array] | None) -> Array | None:
    """Returns the array that a variable holds; None for none."""
    # as an array: a loaded checkpoint holds those of NumPy
    return None if variable is None else jnp.asarray(variable.get_value())


def hashable(value: Any) -> Any:
    """Returns nested sequences as tuples, as static attributes have to be."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        return value
    return tuple(hashable(item) for item in value)
