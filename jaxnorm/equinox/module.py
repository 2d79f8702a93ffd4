"""Base classes that turn the description of a layer into an Equinox module."""

import inspect
from typing import Any, ClassVar

import equinox as eqx
import jax
from jax import Array
from jaxtyping import PRNGKeyArray, Shaped

from jaxnorm._core.arguments.validation import check_flags, check_shape
from jaxnorm._layers.call import copy_inherited_call
from jaxnorm._layers.constructor import with_parameters
from jaxnorm._layers.documentation import document_fields
from jaxnorm._layers.fields import Layer


class Module(eqx.Module):
    """A module with the parameters of a layer.

    Subclasses pass `init=False`, which tells type checkers that they inherit this
    constructor. Otherwise these take the fields of the class for its arguments.

    Attributes:
      num_features: Size of the feature axis; for several axes, a tuple of their sizes,
        in the same order.
      key: Key for the initializers; the default initializers need none.
      params: A dict of the parameters, such as scale and bias, with None for each that
        is not used.
    """

    params: dict[str, Array | None]
    num_features: int | tuple[int, ...] = eqx.field(static=True)
    fields: tuple[tuple[str, Any], ...] = eqx.field(static=True)

    _description: ClassVar[type[Layer]]
    _not_fields: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, *, init: bool = True, **kwargs: Any) -> None:
        del init  # only for type checkers
        super().__init_subclass__(**kwargs)
        copy_inherited_call(cls)
        if "_description" not in vars(cls):
            return
        construct = cls.__init__
        own = dict(inspect.signature(construct).parameters)
        del own["fields"]
        by_keyword = [
            field.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for name, field in inspect.signature(cls._description).parameters.items()
            if name not in (*own, *cls._not_fields)
        ]
        cls.__init__ = with_parameters(  # type: ignore[method-assign]
            construct, [*own.values(), *by_keyword]
        )
        document_fields(cls, cls._description)

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        key: PRNGKeyArray | None = None,
        **fields: Any,
    ) -> None:
        check_shape(num_features, "num_features")
        self.num_features = num_features
        self.fields = tuple(fields.items())
        key = jax.random.key(0) if key is None else key
        layer = self._layer
        parameters = layer._parameters(self._feature_shape)
        keys = jax.random.split(key, max(len(parameters), 1))
        self.params = {
            name: wanted and wanted.init(key, wanted.shape, layer.param_dtype)
            for key, (name, wanted) in zip(keys, parameters.items(), strict=False)
        }

    @property
    def _layer(self) -> Any:
        """Returns the description of the layer, with its fields."""
        return self._description(**dict(self.fields))

    @property
    def _feature_shape(self) -> tuple[int, ...]:
        """Returns the sizes of the feature axes."""
        features = self.num_features
        return features if isinstance(features, tuple) else (features,)

    def _layer_and_input(self, x: Any, *statistics: Array) -> tuple[Any, Array]:
        """Returns the layer's description, and x converted and checked for it."""
        layer = self._layer
        x = layer._convert(x)
        if self.params:
            held = self.params.get("scale"), self.params.get("bias"), *statistics
            layer._check_features(x, self._feature_shape, held)
        return layer, x


class SampleModule(Module, init=False):
    """A module that normalizes each example separately."""

    def __call__(
        self,
        x: Shaped[Array, "..."],
        *,
        mask: Shaped[Array, "..."] | None = None,
        key: PRNGKeyArray | None = None,
    ) -> Array:
        """Normalizes x.

        Args:
          x: Input of any shape, usually (batch, ...).
          mask: Selects valid elements, or gives weights; see `jaxnorm.layer_norm`.
          key: Ignored; for `equinox.nn.Sequential`.

        Returns:
          The normalized input, of the shape of x.
        """
        del key
        return self._normalize(x, mask)

    def _normalize(self, x: Any, mask: Array | None = None, **inputs: Any) -> Any:
        """Normalizes x with the parameters of the module."""
        layer, x = self._layer_and_input(x)
        options = layer._options(x, mask) | inputs
        return layer._forward(x, self.params, options)


class BatchModule(Module):
    """A module with running statistics in an `equinox.nn.State`.

    Attributes:
      inference: Whether to normalize with the running statistics and not update them.
        `equinox.nn.inference_mode` sets it; a call may override it.
      stats: The index of the running statistics, a NamedTuple, in the state.
    """

    inference: bool
    stats: eqx.nn.StateIndex[Any]

    _not_fields = ("use_running_average",)

    def __init__(
        self,
        num_features: int | tuple[int, ...],
        *,
        inference: bool = False,
        key: PRNGKeyArray | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(num_features, key=key, **fields)
        self.inference = inference
        layer = self._layer
        self.stats = eqx.nn.StateIndex(
            layer._initial_stats(self._feature_shape, counted=layer._counts_updates())
        )

    def _normalize(
        self,
        x: Any,
        state: eqx.nn.State,
        mask: Array | None,
        inference: bool | None,
        **inputs: Any,
    ) -> tuple[Array, eqx.nn.State]:
        """Normalizes x; returns a state with the new statistics, in training."""
        if not isinstance(state, eqx.nn.State):
            raise TypeError(
                f"state must be an equinox.nn.State, got {type(state).__name__}. Make "
                "it together with the model: equinox.nn.make_with_state(Model)(...). "
                "Pass a mask by keyword."
            )
        stats = state.get(self.stats)
        of_features = [v for name, v in stats._asdict().items() if name != "count"]
        layer, x = self._layer_and_input(x, *of_features)
        inference = self.inference if inference is None else inference
        check_flags(inference=inference)
        options = layer._options(x, inference, mask) | inputs
        y, new = layer._forward(x, stats, self.params, options)
        layer._warn_of_single_values(x, options)
        return y, state if inference else state.set(self.stats, new)


class BatchInputModule(BatchModule, eqx.nn.StatefulLayer, init=False):
    """A batch module whose call takes x and the state."""

    def __call__(
        self,
        x: Shaped[Array, "..."],
        state: eqx.nn.State,
        *,
        mask: Shaped[Array, "..."] | None = None,
        inference: bool | None = None,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Array, eqx.nn.State]:
        """Normalizes x.

        Args:
          x: Input of any shape, usually (batch, ...). It must be the whole batch, not
            one example under `jax.vmap`, unless `axis_name` is the axis of the vmap.
          state: The state of the model.
          mask: Selects valid elements, or gives weights; see `jaxnorm.batch_norm`.
          inference: Overrides the attribute of this name.
          key: Ignored; for `equinox.nn.Sequential`.

        Returns:
          The normalized input, of the shape of x, and the new state.
        """
        del key
        return self._normalize(x, state, mask, inference)


class UnmaskedModule(SampleModule, init=False):
    """A per-example module whose call takes no mask."""

    def __call__(  # type: ignore[override]
        self, x: Shaped[Array, "..."], *, key: Any = None
    ) -> Array:
        """Normalizes x; `key` is ignored and exists for `equinox.nn.Sequential`."""
        del key
        return self._normalize(x)
