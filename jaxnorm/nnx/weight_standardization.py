"""Weight standardization as a Flax NNX wrapper of a layer."""

from flax import nnx
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm._core.arguments.axes import Axes, sizes
from jaxnorm.nnx.variables import read, show_signature
from jaxnorm.nnx.wrapping import KERNELS, Filter, Path, UnitWrapper, own
from jaxnorm.weight.standardize_weight import standardize_weight

__all__ = ["WeightStandardization"]


@show_signature
class WeightStandardization(UnitWrapper):
    """Weight standardization of the wrapped layer, plain or scaled.

    It computes `jaxnorm.standardize_weight`. A call never changes the layer.

    Attributes:
      layer_instance: The wrapped layer.
      gains: `nnx.Param` by the path of the parameter, such as `("kernel",)`; None
        without `use_gain`.
      variable_filter: Selects the parameters to standardize, as a filter of NNX.
      epsilon: Added to the variance; at least 0. No effect with a gain.
      dtype: Dtype of the standardized parameters; by default what parameter and gain
        promote to.
      param_dtype: Dtype of the gains.
      use_gain: Whether to use scaled weight standardization, with a learned gain for
        each output unit.
      gain_init: Initializer of the gains.
      feature_axes: The axis or axes of the output units.
      rngs: Keys for the initializer.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> rngs = nnx.Rngs(0)
      >>> conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
      >>> wrapped = jaxnorm.nnx.WeightStandardization(conv, rngs=rngs)
      >>> wrapped(jnp.ones((2, 8, 8, 3))).shape
      (2, 8, 8, 4)
    """

    def __init__(
        self,
        layer_instance: nnx.Module,
        *,
        epsilon: float = 1e-6,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        use_gain: bool = False,
        gain_init: Initializer = nnx.initializers.ones,
        feature_axes: Axes = -1,
        variable_filter: Filter = KERNELS,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(layer_instance, feature_axes, variable_filter)
        self.epsilon = epsilon
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.use_gain = use_gain

        def init_gain(value: Array) -> Array:
            shape = sizes(value.shape, self._features(value))
            return gain_init(rngs.params(), shape, param_dtype)

        self.gains: dict[Path, nnx.Param[Array]] | None = nnx.data(
            self._init_each(init_gain) if use_gain else None
        )

    def _normalize(self, path: Path, value: Array) -> Array:
        """Returns a standardized parameter, multiplied by its gain if there is one."""
        return standardize_weight(
            value,
            feature_axes=self._features(value),
            epsilon=self.epsilon,
            gain=None if self.gains is None else read(own(self.gains, path)),
            allow_single_value="warn",
            dtype=self.dtype,
        )
