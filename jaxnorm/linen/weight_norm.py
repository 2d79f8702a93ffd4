"""Weight normalization as a Flax Linen wrapper of a layer."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from flax import linen as nn
from flax.typing import Initializer
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jaxnorm._core.arguments.axes import Axes, canonical_axes, sizes
from jaxnorm._core.arrays.dtypes import as_array
from jaxnorm.linen.wrapping import call_with_params, is_selected
from jaxnorm.weight.weight_norm import init_weight_norm, weight_magnitude, weight_norm

__all__ = ["WeightNorm"]

Initialization = Literal["scale_init", "preserve", "data"]


class WeightNorm(nn.Module):
    """Weight normalization of the layer that it wraps.

    A drop-in superset of `flax.linen.WeightNorm`: the same arguments, defaults, names
    of variables (`params`: `Dense_0/kernel/scale`, say) and initialization, so that its
    checkpoints load unchanged. The mathematics is that of `jaxnorm.weight_norm`.

    With `initialization="data"` initialize with a real minibatch: one pass does all
    layers, one after another, each from the new output of the one before.

    As in Flax, the kernel that initialization stores is the normalized one. Other
    collections of the wrapped layer pass through as they are, so that it may hold a
    batch norm, which cannot train within Flax's class.

    Attributes:
      layer_instance: The layer to wrap.
      epsilon: Added to the squared norm; at least 0.
      dtype: Dtype of the normalized parameters; by default what parameter and scale
        promote to.
      param_dtype: Dtype of the scales.
      use_scale: Whether to multiply by learned scales; without, each norm is 1.
      scale_init: Initializer of the scales.
      feature_axes: The axis or axes of the output units; None: one norm for each array.
      variable_filter: The parameters whose name contains one of these strings are
        normalized; None or empty: all.
      initialization: Where the scales start. "scale_init": as it says, 1 by default, as
        in Flax, which changes what the layer computes. "preserve": at the norms of the
        parameters, so that the layer computes the same as without the wrapper. "data":
        where the layer's output has mean 0 and variance 1 in each unit over the batch
        that it is initialized with, and its bias (if it has one; else only the variance
        is 1) accordingly; this needs a layer of one kernel and at most a bias, as are
        Dense and Conv. Units that are constant over the batch keep a scale of 1.

    Example:
      >>> import jax, jax.numpy as jnp, flax.linen as nn, jaxnorm.linen, numpy as np
      >>> x = jnp.array([[1.0, 2.0], [3.0, -4.0], [0.0, 5.0]])
      >>> layer = jaxnorm.linen.WeightNorm(nn.Dense(3), initialization="data")
      >>> y, variables = jax.jit(layer.init_with_output)(jax.random.key(0), x)
      >>> np.allclose(y.mean(0), 0, atol=1e-5), np.allclose(y.var(0), 1, atol=1e-5)
      (True, True)
    """

    layer_instance: nn.Module
    epsilon: float = 1e-12
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    use_scale: bool = True
    scale_init: Initializer = nn.initializers.ones
    feature_axes: Axes | None = -1
    variable_filter: Iterable[str] | None = dataclasses.field(
        default_factory=lambda: {"kernel"}
    )
    initialization: Initialization = "scale_init"

    @nn.compact
    def __call__(
        self, *args: Any, init_mask: ArrayLike | None = None, **kwargs: Any
    ) -> Any:
        """Calls the wrapped layer with normalized parameters.

        Args:
          *args: Arguments of the wrapped layer.
          init_mask: With `initialization="data"`, which elements of the layer's output
            count, or their weights; it broadcasts to the output. Only looked at while
            initializing.
          **kwargs: Keyword arguments of the wrapped layer.

        Returns:
          What the wrapped layer returns.

        Raises:
          ValueError: If `initialization` is none of the three, or needs what is not
            there: scales, or, for "data", a layer of one kernel and at most a bias; or
            there is an `init_mask` and another initialization.
        """
        self._check_initialization(init_mask)
        initializing = self.is_initializing()
        start = {}
        if initializing and self.initialization == "data":
            start = self._from_data(args, kwargs, init_mask)

        def change(name: str, value: Array) -> Array:
            if not is_selected(name, self.variable_filter):
                return start.get(name, value)
            if not self.use_scale:
                return self._normalize(value)
            given = start.get(name)
            if initializing and self.initialization == "preserve":
                given = weight_magnitude(value, feature_axes=self._features(value))
            return self._normalize(value, self._scale(name, value, given))

        return call_with_params(
            self.layer_instance, change, args, kwargs, store_changed=True
        )

    def _features(self, value: Array) -> tuple[int, ...]:
        axes = () if self.feature_axes is None else self.feature_axes
        return canonical_axes(axes, value.ndim)

    def _normalize(self, value: Array, scale: Array | None = None) -> Array:
        features = self._features(value)
        if scale is None:
            scale = jnp.ones(sizes(value.shape, features), value.dtype)
        return weight_norm(
            value, scale, feature_axes=features, epsilon=self.epsilon, dtype=self.dtype
        )

    def _scale(self, name: str, value: Array, given: Array | None) -> Array:
        """Returns the scale, which starts at `given` or else at `scale_init`."""

        # What it returns may be in a box, with its partitioning.
        def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
            initial = self.scale_init(key, shape, dtype)
            if given is None:
                return initial
            return nn.meta.replace_boxed(initial, given.astype(dtype))

        shape = sizes(value.shape, self._features(value))
        # as an array: a loaded checkpoint holds those of NumPy
        return jnp.asarray(self.param(f"{name}/scale", init, shape, self.param_dtype))

    def _from_data(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], mask: ArrayLike | None
    ) -> dict[str, Array]:
        """Returns by name the kernel's scale and the bias that this batch calls for."""
        params: dict[str, Array] = {}

        def change(name: str, value: Array) -> Array:
            params[name] = value
            selected = is_selected(name, self.variable_filter)
            return self._normalize(value) if selected else value

        y = call_with_params(
            self.layer_instance, change, args, kwargs, store_changed=True
        )
        kernels = [name for name in params if is_selected(name, self.variable_filter)]
        others = [name for name in params if name not in kernels]
        if len(kernels) != 1 or len(others) > 1:
            raise ValueError(
                'initialization="data" needs a layer of one normalized parameter and '
                f"at most one other, its bias, got {kernels} and {others}. Wrap each "
                "layer for itself, and see that variable_filter selects its kernel."
            )
        features = sizes(params[kernels[0]].shape, self._features(params[kernels[0]]))
        bias = params[others[0]] if others else jnp.zeros(features, self.param_dtype)
        start = init_weight_norm(
            y,
            jnp.ones(features, jnp.float32),
            bias,
            feature_axes=tuple(range(-len(features), 0)),
            mask=None if mask is None else as_array(mask, "init_mask"),
        )
        return dict(zip((*kernels, *others), start, strict=False))

    def _check_initialization(self, init_mask: ArrayLike | None) -> None:
        if self.initialization not in get_args(Initialization):
            raise ValueError(
                f"initialization must be one of {get_args(Initialization)}, got "
                f"{self.initialization!r}."
            )
        if self.initialization != "scale_init" and not self.use_scale:
            raise ValueError(
                f"initialization={self.initialization!r} says where the scales start, "
                "so use_scale must be True, got False."
            )
        if self.initialization != "data" and init_mask is not None:
            raise ValueError(
                "init_mask says what counts in a data-dependent initialization, so "
                f'initialization must be "data", got {self.initialization!r}.'
            )
