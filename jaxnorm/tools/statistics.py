"""Trees of statistics: how their layers are found, and changed."""

from collections.abc import Callable, Mapping
from typing import Any

from jax import Array
from jax import numpy as jnp

from jaxnorm.tools._trees import children, is_node, with_children

Tree = Mapping[Any, Any]
"""Nested dicts of arrays, as Flax's collections are; within, lists of such as well."""

Layer = dict[str, Array]
"""The arrays of one layer."""

STATISTICS = {"mean", "var", "std"}
"""The names of running statistics."""

_MOMENTS = "batch_moments"  # within a layer, what holds those of its input


def map_layers(
    change: Callable[..., Layer], tree: Tree, *others: Tree
) -> dict[Any, Any]:
    """Returns a tree of statistics with those of each layer changed.

    A layer is a node that holds an array `mean`, `var` or `std`, by itself or in a dict
    `batch_moments`. All else stays.

    Args:
      change: Is given the path of a layer, its arrays, and what the others hold at that
        path; returns the arrays that take their place.
      tree: The tree.
      *others: Trees in which each layer has its like.

    Raises:
      ValueError: If another tree lacks a layer, or has one of another shape.
    """
    mapped: dict[Any, Any] = _map_layers_at((), change, tree, *others)
    return mapped


def _map_layers_at(
    path: tuple[Any, ...], change: Callable[..., Layer], tree: Any, *others: Any
) -> Any:
    """Does what `map_layers` does at a path, where a node may be a list."""
    own = children(tree)
    theirs = [children(children(other).get(_MOMENTS, other)) for other in others]
    arrays = {k: jnp.asarray(part) for k, part in own.items() if not is_node(part)}
    if STATISTICS & set(arrays):
        _check_shapes(path, arrays, *theirs)
        arrays = change(path, arrays, *theirs)
    parts = {}
    for name, part in own.items():
        if name == _MOMENTS:
            parts[name] = _map_layers_at(path, change, part, *theirs)
        elif is_node(part):
            below = [_child_of(other, name, path, part) for other in theirs]
            parts[name] = _map_layers_at((*path, name), change, part, *below)
    return with_children(tree, {**arrays, **parts})


def layers(tree: Any) -> dict[tuple[Any, ...], Layer]:
    """Returns the arrays of each layer of a tree of statistics, by path."""
    found: dict[tuple[Any, ...], Layer] = {}

    def note(path: tuple[Any, ...], layer: Layer) -> Layer:
        found[path] = layer
        return layer

    _map_layers_at((), note, tree)
    return found


def batch_stats_of(variables: Tree) -> Tree:
    """Returns the collection `batch_stats` of a model's variables.

    Raises:
      TypeError: If `variables` is not a dict.
      ValueError: If there is none, or no layer in it has statistics.
    """
    if not isinstance(variables, Mapping):
        fix = (
            '{"params": state.params, "batch_stats": state.batch_stats}'
            if hasattr(variables, "params")
            else "what jaxnorm.nnx.collecting(model) returns, if it is an NNX model"
        )
        raise TypeError(
            "variables must be a dict of collections, got "
            f"{type(variables).__name__}. Pass {fix}."
        )
    found: Tree = variables.get("batch_stats", {})
    if not layers(found):
        raise ValueError(
            'variables must hold running statistics under "batch_stats", and hold none '
            f"(the keys are {list(variables)}). Pass those of the whole model, "
            '{"params": ..., "batch_stats": ...}; of an NNX model, those that '
            "jaxnorm.nnx.collecting(model) returns. Group, layer and other norms of "
            "each example keep no running statistics."
        )
    return found


def path_text(path: tuple[object, ...]) -> str:
    """Returns a path as text, for error messages: names and list indices."""
    return "/".join(map(str, path)) or "the layer"


def _check_shapes(path: tuple[Any, ...], *layers: Tree) -> None:
    for name in sorted(STATISTICS):
        shapes = [jnp.shape(layer[name]) for layer in layers if name in layer]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"{name} of {path_text(path)} must have one shape in all trees, got "
                f"{' and '.join(map(str, dict.fromkeys(shapes)))}. Are they of the "
                "same model?"
            )


def _child_of(other: Tree, name: Any, path: tuple[Any, ...], part: Any) -> Any:
    """Returns a child of another tree, which must exist if `part` has layers."""
    found = other.get(name, {})
    if not found and (lacking := layers(part)):
        raise ValueError(
            f"{path_text((*path, name, *next(iter(lacking))))} has statistics in one "
            "tree and none in the other. Are both of the same model, and is each of "
            "its layers one of jaxnorm's, called in every pass?"
        )
    return found
