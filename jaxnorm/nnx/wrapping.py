"""Calls of a wrapped layer with changed parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flax import nnx
from jax import Array

from jaxnorm._core.arguments.axes import Axes, canonical_axes
from jaxnorm._layers.call import copy_inherited_call
from jaxnorm.nnx.variables import as_static, read

if TYPE_CHECKING:
    from flax.nnx.filterlib import Filter as Filter
else:
    Filter = Any  # Flax exports filters, not their type

Path = tuple[Any, ...]
Predicate = Callable[[Path, Any], bool]
KERNELS = nnx.PathContains("kernel")


def params_of(
    layer: nnx.Module, predicate: Predicate | None = None
) -> dict[Path, Array]:
    """Returns a dict from path to parameter of a layer.

    Args:
      layer: The wrapped layer.
      predicate: Takes a path and a variable, and returns whether to include the
        parameter. None includes all.
    """
    params = nnx.to_flat_state(nnx.state(layer, nnx.Param))
    return {
        path: read(param)
        for path, param in params
        if predicate is None or predicate(path, param)
    }


def call_with_params(
    layer: nnx.Module,
    params: Mapping[Path, Array],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Any:
    """Calls a layer with changed values of some parameters, without storing them.

    All other variables are shared with the layer, so its statistics, caches and random
    counts are updated as without the wrapper.

    Args:
      layer: The wrapped layer.
      params: The values to use instead of the parameters at these paths.
      args: Arguments of the layer.
      kwargs: Keyword arguments of the layer.

    Returns:
      The output of the layer.
    """
    # The copy shares all variables with the layer except the changed parameters.
    # (nnx.recursive_map would write into the variables to replace.)
    graphdef, state = nnx.split(layer)
    variables = dict(nnx.to_flat_state(state))
    for path, value in params.items():
        variables[path] = variables[path].copy(value)
    copy = nnx.merge(graphdef, nnx.from_flat_state(variables.items()))
    return copy(*args, **kwargs)


def own(
    variables: Mapping[Path, nnx.Variable[Array]], path: Path
) -> nnx.Variable[Array]:
    """Returns the variable of a wrapper for the parameter at a path.

    Raises:
      ValueError: If the layer had no such parameter when it was wrapped.
    """
    if path not in variables:
        raise ValueError(
            "the wrapped layer must have the parameters that it had when it was "
            f"wrapped, {list(variables)}, got the new parameter {path}. Wrap the layer "
            "after all its parameters are created."
        )
    return variables[path]


class UnitWrapper(nnx.Module):
    """Normalizes each output unit of the parameters of the wrapped layer.

    Attributes:
      layer_instance: The wrapped layer.
      feature_axes: The axes of the output units, in each parameter.
      variable_filter: Selects the parameters that are normalized.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        copy_inherited_call(cls)

    def __init__(
        self, layer_instance: nnx.Module, feature_axes: Axes, variable_filter: Filter
    ) -> None:
        self.layer_instance = layer_instance
        self.feature_axes = as_static(feature_axes)
        self.variable_filter = nnx.All(variable_filter)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the wrapped layer with normalized parameters.

        Args:
          *args: Arguments of the wrapped layer.
          **kwargs: Keyword arguments of the wrapped layer.

        Returns:
          The output of the wrapped layer.

        Raises:
          ValueError: If the layer has a parameter that it lacked when it was wrapped.
        """
        normalized = {
            path: self._normalize(path, value) for path, value in self._values().items()
        }
        return call_with_params(self.layer_instance, normalized, args, kwargs)

    def _normalize(self, path: Path, value: Array) -> Array:
        """Returns a normalized parameter. Subclasses define it."""
        raise NotImplementedError

    def _init_each(
        self, init: Callable[[Array], Array]
    ) -> dict[Path, nnx.Param[Array]]:
        """Returns a dict from the path of each parameter to a new variable."""
        return {path: nnx.Param(init(value)) for path, value in self._values().items()}

    def _values(self) -> dict[Path, Array]:
        """Returns a dict from path to each parameter to normalize."""
        return params_of(self.layer_instance, self.variable_filter)

    def _features(self, value: Array) -> tuple[int, ...]:
        """Returns the non-negative feature axes of a parameter."""
        return canonical_axes(self.feature_axes, value.ndim)
