"""How a module computes another one with changed parameters."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flax import nnx
from jax import Array

from jaxnorm._core.arguments.axes import Axes, canonical_axes
from jaxnorm._layers.call import own_call
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
    """Returns the parameters of a layer by their path, those of the predicate if given.

    Args:
      layer: The wrapped layer.
      predicate: Tells, of a path and a variable, whether the parameter is meant.
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
    """Calls a layer that sees some of its parameters changed; they stay as they are.

    All its other variables are its own: statistics, caches and counts of random numbers
    within it move as without the wrapper.

    Args:
      layer: The wrapped layer.
      params: What it sees in the place of the parameters at these paths.
      args: Arguments of the layer.
      kwargs: Keyword arguments of the layer.

    Returns:
      What the layer returns.
    """
    # A copy of the modules, which share their variables but for the changed ones.
    # (nnx.recursive_map would write into the variable that it is to replace.)
    graphdef, state = nnx.split(layer)
    variables = dict(nnx.to_flat_state(state))
    for path, value in params.items():
        variables[path] = variables[path].copy(value)
    copy = nnx.merge(graphdef, nnx.from_flat_state(variables.items()))
    return copy(*args, **kwargs)


def own(
    variables: Mapping[Path, nnx.Variable[Array]], path: Path
) -> nnx.Variable[Array]:
    """Returns what a wrapper keeps for the parameter at a path.

    Raises:
      ValueError: If the layer had no such parameter when it was wrapped.
    """
    if path not in variables:
        raise ValueError(
            f"the wrapped layer has a parameter {path} that it had not when it was "
            f"wrapped, where there were {list(variables)}. Wrap it when it is whole."
        )
    return variables[path]


class UnitWrapper(nnx.Module):
    """Normalizes each output unit of the parameters of the layer that it wraps.

    Attributes:
      layer_instance: The wrapped layer.
      feature_axes: The axes of the output units, in each parameter.
      variable_filter: Which parameters are normalized.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own_call(cls)

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
          What the wrapped layer returns.

        Raises:
          ValueError: If the layer has parameters that it had not when it was wrapped.
        """
        normalized = {
            path: self._normalize(path, value) for path, value in self._values().items()
        }
        return call_with_params(self.layer_instance, normalized, args, kwargs)

    def _normalize(self, path: Path, value: Array) -> Array:
        raise NotImplementedError

    def _init_each(
        self, init: Callable[[Array], Array]
    ) -> dict[Path, nnx.Param[Array]]:
        """Returns a variable for each parameter, by its path."""
        return {path: nnx.Param(init(value)) for path, value in self._values().items()}

    def _values(self) -> dict[Path, Array]:
        return params_of(self.layer_instance, self.variable_filter)

    def _features(self, value: Array) -> tuple[int, ...]:
        return canonical_axes(self.feature_axes, value.ndim)
