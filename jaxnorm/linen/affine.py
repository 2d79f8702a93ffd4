"""The scale and bias of normalizing modules."""

from typing import Any, Protocol, runtime_checkable

from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike


@runtime_checkable
class AffineModule(Protocol):
    """A Linen module with the fields that say which parameters it has.

    Attributes:
      use_scale: Whether it has a scale.
      use_bias: Whether it has a bias.
      scale_init: Initializer of the scale.
      bias_init: Initializer of the bias.
      param_dtype: Dtype of both.
    """

    use_scale: bool
    use_bias: bool
    scale_init: Initializer
    bias_init: Initializer
    param_dtype: DTypeLike

    def param(self, name: str, init_fn: Any, *init_args: Any) -> Any:
        """Creates the parameter, or returns it."""
        ...


def affine_params(
    module: AffineModule, feature_shape: tuple[int, ...]
) -> tuple[Array | None, Array | None]:
    """Returns the parameters `scale` and `bias`, None for one that is not used.

    Call it once, inside `nn.compact`.

    Args:
      module: The module that they belong to.
      feature_shape: The shape of each.
    """
    scale = bias = None
    # as arrays: a loaded checkpoint holds those of NumPy
    if module.use_scale:
        scale = jnp.asarray(
            module.param("scale", module.scale_init, feature_shape, module.param_dtype)
        )
    if module.use_bias:
        bias = jnp.asarray(
            module.param("bias", module.bias_init, feature_shape, module.param_dtype)
        )
    return scale, bias
