"""The scale and bias of normalizing modules."""

from typing import Any, Protocol, runtime_checkable

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike


@runtime_checkable
class ScaledModule(Protocol):
    """A Linen module with the fields that say whether it has a scale.

    Attributes:
      use_scale: Whether it has a scale.
      scale_init: Initializer of the scale; None: the module starts at a factor of 1.
      param_dtype: Dtype of the parameters.
    """

    use_scale: bool
    param_dtype: DTypeLike

    @property
    def scale_init(self) -> Initializer | None:
        """Initializer of the scale."""

    def param(self, name: str, init_fn: Any, *init_args: Any) -> Any:
        """Creates the parameter, or returns it."""


@runtime_checkable
class AffineModule(ScaledModule, Protocol):
    """A Linen module with the fields that say which parameters it has.

    Attributes:
      use_bias: Whether it has a bias.
      bias_init: Initializer of the bias.
    """

    use_bias: bool
    bias_init: Initializer


def scale_param(
    module: ScaledModule, feature_shape: tuple[int, ...], scale_offset: float = 0.0
) -> Array | None:
    """Returns the parameter `scale`, None if it is not used.

    Call it once, inside `nn.compact`.

    Args:
      module: The module that it belongs to.
      feature_shape: Its shape.
      scale_offset: What is added to it to get the factor.
    """
    if not module.use_scale:
        return None
    init = module.scale_init
    if init is None:
        init = nn.initializers.constant(1 - scale_offset)
    # as an array: a loaded checkpoint holds those of NumPy
    return jnp.asarray(module.param("scale", init, feature_shape, module.param_dtype))


def affine_params(
    module: AffineModule, feature_shape: tuple[int, ...], scale_offset: float = 0.0
) -> tuple[Array | None, Array | None]:
    """Returns the parameters `scale` and `bias`, None for one that is not used.

    Call it once, inside `nn.compact`.

    Args:
      module: The module that they belong to.
      feature_shape: The shape of each.
      scale_offset: What is added to the scale to get the factor.
    """
    scale, bias = scale_param(module, feature_shape, scale_offset), None
    if module.use_bias:
        bias = jnp.asarray(
            module.param("bias", module.bias_init, feature_shape, module.param_dtype)
        )
    return scale, bias
