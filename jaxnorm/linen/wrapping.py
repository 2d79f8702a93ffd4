"""Calls of a wrapped layer with changed parameters."""

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
    """Calls a layer with changed parameters and its other variables unchanged.

    Args:
      layer: The wrapped layer.
      change: Takes the name of a parameter, such as `Dense_0/kernel`, and its value;
        returns the value that the layer uses instead.
      args: Arguments of the layer.
      kwargs: Keyword arguments of the layer.
      store_changed: Whether initialization stores the changed values. After
        initialization, the stored values never change.

    Returns:
      The output of the layer.
    """

    def forward(layer: nn.Module) -> Any:
        return layer(*args, **kwargs)

    def name_and_change(path: tuple[Any, ...], value: Any) -> Any:
        within = jax.tree_util.keystr(path[1:], simple=True, separator="/")
        changed = change(f"{layer.name}/{within}", jnp.asarray(nn.meta.unbox(value)))
        return nn.meta.replace_boxed(value, changed)

    def change_all(variables: PyTree) -> PyTree:
        # Boxes are leaves, so that names are the same with and without boxes.
        return jax.tree_util.tree_map_with_path(
            name_and_change, variables, is_leaf=_is_box
        )

    initializing = layer.is_initializing()
    if initializing and not store_changed:
        forward(layer)  # creates the parameters
    mapped = nn.map_variables(
        forward, "params", change_all, init=initializing and store_changed
    )
    return mapped(layer)


def _is_box(node: Any) -> bool:
    """Returns whether a node is a box with metadata."""
    return isinstance(node, nn.meta.AxisMetadata)


def is_selected(name: str, variable_filter: Iterable[str] | None) -> bool:
    """Returns whether `name` contains a string of the filter; True without a filter.

    Raises:
      TypeError: If the filter is a single string, whose letters would be searched for.
    """
    if isinstance(variable_filter, str):
        raise TypeError(
            "variable_filter must be a collection of strings, got the string "
            f"{variable_filter!r}. Write {{{variable_filter!r}}}."
        )
    return not variable_filter or any(part in name for part in variable_filter)
