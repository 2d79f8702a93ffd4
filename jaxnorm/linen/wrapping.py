"""How a module computes another one with changed parameters."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
from flax import linen as nn
from jax import Array
from jax import numpy as jnp

PyTree = Any


def call_with_params(
    layer: nn.Module,
    change: Callable[[str, Array], Array],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    *,
    store_changed: bool,
) -> Any:
    """Calls a layer that sees its parameters changed; its other variables stay.

    Args:
      layer: The wrapped layer.
      change: Given the name of each parameter, such as `Dense_0/kernel`, and its value,
        returns what the layer sees in its place.
      args: Arguments of the layer.
      kwargs: Keyword arguments of the layer.
      store_changed: Whether, while initializing, the changed values become the stored
        ones. Later the stored ones never change.

    Returns:
      What the layer returns.
    """

    def forward(layer: nn.Module) -> Any:
        return layer(*args, **kwargs)

    def name_and_change(path: tuple[Any, ...], value: Any) -> Any:
        within = jax.tree_util.keystr(path[1:], simple=True, separator="/")
        changed = change(f"{layer.name}/{within}", jnp.asarray(nn.meta.unbox(value)))
        return nn.meta.replace_boxed(value, changed)

    def change_all(variables: PyTree) -> PyTree:
        # A box is not a part of a name, which is the same once it is taken off.
        return jax.tree_util.tree_map_with_path(
            name_and_change, variables, is_leaf=_is_box
        )

    initializing = layer.is_initializing()
    if initializing and not store_changed:
        forward(layer)  # creates them
    mapped = nn.map_variables(
        forward, "params", change_all, init=initializing and store_changed
    )
    return mapped(layer)


def _is_box(node: Any) -> bool:
    return isinstance(node, nn.meta.AxisMetadata)


def is_selected(name: str, variable_filter: Iterable[str] | None) -> bool:
    """Returns whether `name` contains a string of the filter; without one, all do.

    Raises:
      TypeError: If the filter is one string, of which each letter would be looked for.
    """
    if isinstance(variable_filter, str):
        raise TypeError(
            "variable_filter must be a collection of strings, got the string "
            f"{variable_filter!r}. Write {{{variable_filter!r}}}."
        )
    return not variable_filter or any(part in name for part in variable_filter)
