"""Trees of statistics: finding their layers and mapping functions over them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jax import Array
from jax import numpy as jnp

from jaxnorm.tools._trees import (
    children,
    is_node,
    is_train_state,
    walk,
    with_children,
)

Tree = Mapping[Any, Any]
"""Nested dicts of arrays, such as Flax's collections; they may contain lists."""

Layer = dict[str, Array]
"""The arrays of one layer."""

STATISTICS = {"mean", "var", "std"}
"""The names of running statistics."""

_PARAMETERS = ("kernel", "scale", "bias")  # never names of statistics of jaxnorm
_MOMENTS = "batch_moments"  # a layer holds the moments of its input under this name


def map_layers(
    change: Callable[..., Layer], tree: Tree, *others: Tree
) -> dict[Any, Any]:
    """Applies a function to the statistics of each layer of a tree.

    A layer is a node with an array `mean`, `var` or `std`, either directly or in a dict
    `batch_moments`. Everything else is unchanged.

    Args:
      change: Takes the path of a layer, its arrays, and the nodes of the other trees at
        that path; returns the new arrays of the layer.
      tree: The tree.
      *others: Trees that contain the same layers.

    Returns:
      A tree of the same structure as `tree`, with the new arrays.

    Raises:
      ValueError: If another tree lacks a layer, or a layer has another shape there.
    """
    mapped: dict[Any, Any] = _map_layers_at((), change, tree, *others)
    return mapped


def _map_layers_at(
    path: tuple[Any, ...], change: Callable[..., Layer], tree: Any, *others: Any
) -> Any:
    """Implements `map_layers` for the subtree at a path, whose node may be a list."""
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
    """Returns a dict from the path of each layer to its arrays."""
    found: dict[tuple[Any, ...], Layer] = {}

    def note(path: tuple[Any, ...], layer: Layer) -> Layer:
        found[path] = layer
        return layer

    _map_layers_at((), note, tree)
    return found


def check_collection(tree: object, name: str, collection: str = "batch_stats") -> None:
    """Checks that a tree can be a collection of statistics, without parameters.

    It may be empty, like the collection of a model without batch norms.

    Args:
      tree: The argument that the user passed.
      name: The name of the argument.
      collection: The expected collection, "batch_stats" or "batch_moments".

    Raises:
      TypeError: If `tree` is not a tree of dicts, but for instance an array or a model.
      ValueError: If it has parameters, or is the other collection.
    """
    fix = (
        f"Pass state.{collection}."
        if is_train_state(tree)
        else f'Pass variables["{collection}"], only this collection.'
    )
    if is_train_state(tree) or not is_node(tree):
        raise TypeError(
            f"{name} must be a collection {collection}, nested dicts of arrays, got "
            f"{type(tree).__name__}. {fix}"
        )
    if {"params", "batch_stats"} <= children(tree).keys():
        raise ValueError(
            f"{name} must be a collection {collection}, got the variables of a whole "
            f"model. {fix}"
        )
    paths = list(walk(tree))
    if collection != _MOMENTS and any(_MOMENTS in path for path in paths):
        raise ValueError(
            f"{name} must be a collection {collection}, got {_MOMENTS}. {fix}"
        )
    named = {path[-1]: path for path in paths if path[-1] in _PARAMETERS}
    if "kernel" in named or (named and not layers(tree)):
        raise ValueError(
            f"{name} must be a collection {collection}, got a tree with the parameter "
            f"{path_text(next(iter(named.values())))}. {fix}"
        )


def check_collections(trees: object, collection: str) -> None:
    """Checks that `trees` is a sequence of collections of statistics.

    Raises:
      TypeError: If it is one collection or a generator, or contains anything but trees
        of dicts.
      ValueError: If it is empty, or a tree has parameters.
    """
    if isinstance(trees, Mapping) or not isinstance(trees, Sequence):
        fix = "a list" if isinstance(trees, Mapping) else "list(trees)"
        raise TypeError(
            f"trees must be a sequence of collections {collection}, got "
            f"{type(trees).__name__}. Pass {fix}."
        )
    if not trees:
        raise ValueError(
            f"trees must hold at least one collection {collection}, got none."
        )
    for index, tree in enumerate(trees):
        check_collection(tree, f"trees[{index}]", collection)


def batch_stats_of(variables: Tree) -> Tree:
    """Returns the collection `batch_stats` of a model's variables.

    Raises:
      TypeError: If `variables` is not a dict.
      ValueError: If the collection is missing, or no layer in it has statistics.
    """
    if not isinstance(variables, Mapping):
        fix = (
            '{"params": state.params, "batch_stats": state.batch_stats}'
            if is_train_state(variables)
            else "the variables that jaxnorm.nnx.collecting(model) returns for an NNX "
            "model"
        )
        raise TypeError(
            "variables must be a dict of collections, got "
            f"{type(variables).__name__}. Pass {fix}."
        )
    found: Tree = variables.get("batch_stats", {})
    if not layers(found):
        raise ValueError(
            'variables must hold running statistics under "batch_stats", got none '
            f"(the keys are {list(variables)}). Pass the variables of the whole model, "
            '{"params": ..., "batch_stats": ...}; for an NNX model, the variables that '
            "jaxnorm.nnx.collecting(model) returns. Group norm, layer norm and other "
            "per-example norms keep no running statistics."
        )
    return found


def path_text(path: tuple[object, ...]) -> str:
    """Returns a path as text for error messages, joined with "/"."""
    return "/".join(map(str, path)) or "the layer"


def _check_shapes(path: tuple[Any, ...], *layers: Tree) -> None:
    """Raises ValueError if a statistic has different shapes in the given layers."""
    for name in sorted(STATISTICS):
        shapes = [jnp.shape(layer[name]) for layer in layers if name in layer]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"{name} of {path_text(path)} must have the same shape in all trees, "
                f"got {' and '.join(map(str, dict.fromkeys(shapes)))}. Pass trees of "
                "the same model."
            )


def _child_of(other: Tree, name: Any, path: tuple[Any, ...], part: Any) -> Any:
    """Returns the child `name` of a node, which must exist if `part` has layers."""
    found = other.get(name, {})
    if not found and (lacking := layers(part)):
        raise ValueError(
            "each layer must have statistics in all trees, but "
            f"{path_text((*path, name, *next(iter(lacking))))} has statistics in one "
            "tree and none in another. Check that all trees are of the same model, "
            "and that the layer is one of jaxnorm's and is called in every pass."
        )
    return found
