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
    """Weight normalization of the wrapped layer.

    A drop-in superset of `flax.linen.WeightNorm`: the same arguments, defaults, names
    of variables (such as `Dense_0/kernel/scale` in `params`) and initialization, so
    that its checkpoints load unchanged. It computes `jaxnorm.weight_norm`.

    With `initialization="data"`, initialize with a real minibatch. One pass initializes
    all layers in order, each from the output of the initialized layer before it.

    As in Flax, initialization stores the normalized kernel. Other collections of the
    wrapped layer pass through unchanged, so it may contain a batch norm. (A batch norm
    cannot train inside Flax's class.)

    Attributes:
      layer_instance: The layer to wrap.
      epsilon: Added to the squared norm; at least 0.
      dtype: Dtype of the normalized parameters; by default what parameter and scale
        promote to.
      param_dtype: Dtype of the scales.
      use_scale: Whether to multiply by learned scales; otherwise each norm is 1.
      scale_init: Initializer of the scales.
      feature_axes: The axis or axes of the output units. None gives one norm for each
        array.
      variable_filter: Strings; parameters whose names contain one of them are
        normalized. None or empty selects all parameters.
      initialization: How to initialize the scales. "scale_init" uses the initializer of
        that name, 1 by default, as in Flax; this changes what the layer computes.
        "preserve" uses the norms of the parameters, so that the layer computes the same
        as without the wrapper. "data" sets scale and bias so that each unit of the
        output has mean 0 and variance 1 over the batch passed to `init` (without a
        bias, only the variance is 1). It needs a layer with one kernel and at most one
        bias, such as Dense or Conv. Units that are constant over the batch keep a scale
        of 1.

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
          init_mask: With `initialization="data"`, selects the valid elements of the
            layer's output, or gives weights; it broadcasts to the output. Used only
            during initialization.
          **kwargs: Keyword arguments of the wrapped layer.

        Returns:
          The output of the wrapped layer.

        Raises:
          ValueError: If `initialization` has another value, or lacks what it needs:
            scales, or for "data" a layer with one kernel and at most one bias; or if
            `init_mask` is given with another initialization than "data".
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
        """Returns the non-negative feature axes of a parameter; () for one norm."""
        axes = () if self.feature_axes is None else self.feature_axes
        return canonical_axes(axes, value.ndim)

    def _normalize(self, value: Array, scale: Array | None = None) -> Array:
        """Returns a parameter with the norms `scale`, or with norms of 1 if None."""
        features = self._features(value)
        if scale is None:
            scale = jnp.ones(sizes(value.shape, features), value.dtype)
        return weight_norm(
            value, scale, feature_axes=features, epsilon=self.epsilon, dtype=self.dtype
        )

    def _scale(self, name: str, value: Array, given: Array | None) -> Array:
        """Returns the scale, initialized to `given`, or by `scale_init` if None."""

        # The initial value may be in a box with its partitioning.
        def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike) -> Any:
            initial = self.scale_init(key, shape, dtype)
            if given is None:
                return initial
            return nn.meta.replace_boxed(initial, given.astype(dtype))

        shape = sizes(value.shape, self._features(value))
        # A loaded checkpoint may hold NumPy arrays.
        return jnp.asarray(self.param(f"{name}/scale", init, shape, self.param_dtype))

    def _from_data(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], mask: ArrayLike | None
    ) -> dict[str, Array]:
        """Returns the initial scale and bias for this batch, by parameter name."""
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
                'initialization="data" needs a layer with one normalized parameter and '
                f"at most one other, its bias, got {kernels} and {others}. Wrap each "
                "layer separately, and check that variable_filter selects its kernel."
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
        """Raises ValueError if the arguments contradict `initialization`."""
        if self.initialization not in get_args(Initialization):
            raise ValueError(
                f"initialization must be one of {get_args(Initialization)}, got "
                f"{self.initialization!r}."
            )
        if self.initialization != "scale_init" and not self.use_scale:
            raise ValueError(
                f"use_scale must be True with initialization={self.initialization!r}, "
                "which initializes the scales, got False. Remove use_scale=False."
            )
        if self.initialization != "data" and init_mask is not None:
            raise ValueError(
                f'initialization must be "data" with an init_mask, got '
                f"{self.initialization!r}. Remove init_mask, or pass "
                'initialization="data".'
            )
