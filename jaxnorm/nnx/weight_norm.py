"""Weight normalization as a Flax NNX wrapper of a layer."""

from typing import Literal, get_args

from flax import nnx
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm._core.arguments.axes import Axes, sizes
from jaxnorm.nnx.variables import PromoteDtype, keep_dtypes, read, show_signature
from jaxnorm.nnx.wrapping import KERNELS, Filter, Path, UnitWrapper, own
from jaxnorm.weight.weight_norm import weight_magnitude, weight_norm

__all__ = ["WeightNorm"]

Initialization = Literal["scale_init", "preserve"]


@show_signature
class WeightNorm(UnitWrapper):
    """Weight normalization of the wrapped layer.

    A drop-in superset of `flax.nnx.WeightNorm`: the same arguments, defaults and names
    of variables. It computes `jaxnorm.weight_norm`. Unlike in Flax, a call never
    changes the layer: its kernel keeps its length, and gradients reach it.

    Attributes:
      layer_instance: The wrapped layer.
      scales: `nnx.Param` by the path of the parameter, such as `("kernel",)`; None
        without `use_scale`.
      feature_axes: The axis or axes of the output units. None gives one norm for each
        array.
      use_scale: Whether to multiply by learned scales; otherwise each norm is 1.
      epsilon: Added to the squared norm; at least 0.
      dtype: Dtype of the normalized parameters; by default what parameter and scale
        promote to.
      param_dtype: Dtype of the scales.
      variable_filter: Selects the parameters to normalize, as a filter of NNX.
      promote_dtype: As in Flax, called with a tuple of parameter and scale, and
        `dtype`. The default keeps both unchanged.
      scale_init: Initializer of the scales.
      initialization: How to initialize the scales. "scale_init" uses the initializer of
        that name, 1 by default, as in Flax; this changes what the layer computes.
        "preserve" uses the norms of the parameters, so that the layer computes the same
        as before.
      rngs: Keys for the initializer.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> layer = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
      >>> wrapped = jaxnorm.nnx.WeightNorm(
      ...     layer, initialization="preserve", rngs=nnx.Rngs(1)
      ... )
      >>> x = jnp.array([[1.0, 2.0], [3.0, -4.0]])
      >>> jnp.allclose(wrapped(x), layer(x))
      Array(True, dtype=bool)
    """

    def __init__(
        self,
        layer_instance: nnx.Module,
        *,
        feature_axes: Axes | None = -1,
        use_scale: bool = True,
        scale_init: Initializer = nnx.initializers.ones,
        epsilon: float = 1e-12,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        variable_filter: Filter = KERNELS,
        promote_dtype: PromoteDtype = keep_dtypes,
        initialization: Initialization = "scale_init",
        rngs: nnx.Rngs,
    ) -> None:
        _check_initialization(initialization, use_scale)
        axes = () if feature_axes is None else feature_axes
        super().__init__(layer_instance, axes, variable_filter)
        self.use_scale = use_scale
        self.scale_init = scale_init
        self.epsilon = epsilon
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.promote_dtype = promote_dtype

        def init_scale(value: Array) -> Array:
            features = self._features(value)
            if initialization == "preserve":
                length = weight_magnitude(value, feature_axes=features)
                return length.astype(param_dtype)
            return scale_init(rngs.params(), sizes(value.shape, features), param_dtype)

        self.scales: dict[Path, nnx.Param[Array]] | None = nnx.data(
            self._init_each(init_scale) if use_scale else None
        )

    def _normalize(self, path: Path, value: Array) -> Array:
        """Returns a parameter with its learned norms, or with norms of 1."""
        features = self._features(value)
        if self.scales is None:
            scale = jnp.ones(sizes(value.shape, features), value.dtype)
        else:
            scale = read(own(self.scales, path))
        value, scale = self.promote_dtype((value, scale), dtype=self.dtype)
        return weight_norm(
            value, scale, feature_axes=features, epsilon=self.epsilon, dtype=self.dtype
        )


def _check_initialization(initialization: str, use_scale: bool) -> None:
    """Raises ValueError if `initialization` is unknown, or needs scales."""
    if initialization not in get_args(Initialization):
        raise ValueError(
            f"initialization must be one of {get_args(Initialization)}, got "
            f"{initialization!r}."
        )
    if initialization != "scale_init" and not use_scale:
        raise ValueError(
            f"use_scale must be True with initialization={initialization!r}, which "
            "initializes the scales, got False. Remove use_scale=False."
        )
