"""Conversion between the state of an NNX model and Linen variables."""

from collections.abc import Mapping
from typing import Any

from jaxnorm.tools._trees import as_paths, children, insert, is_node, node_at, walk
from jaxnorm.tools.convert.layers import (
    COLLECTIONS,
    LINEN,
    Variables,
    check_mapping,
)

AnyPath = tuple[str | int, ...]
"""Names and list indices from the root of a tree to a node."""


def variables_from_nnx(
    state: Mapping[Any, Any], paths: Mapping[Any, AnyPath] | None = None
) -> Variables:
    """Returns the state of an NNX model as a Linen variables tree.

    The leaves of the result are the same objects. If a node has a mean or a var, its
    mean, var, std and count go to `batch_stats`; all other leaves go to `params`.

    Args:
      state: A pure dict: `nnx.to_pure_dict(nnx.state(model, (nnx.Param,
        nnx.BatchStat)))`. (Linen variables do not contain the state of random streams.)
      paths: A dict from old to new paths, for nodes with another name in Linen:
        `{("layers", 0): ("layers_0",)}`. The longest path that is a prefix of a leaf's
        path applies. None renames no node.

    Returns:
      Nested dicts: `{"params": ..., "batch_stats": ...}`.

    Raises:
      TypeError: If `state` is not a dict, but for instance a model, or a path is not a
        tuple.
      ValueError: If `state` is the variables of a Linen model, a path matches no leaf,
        or two leaves get the same path.

    Example:
      >>> import jaxnorm.tools
      >>> state = {"bn": {"scale": 1, "mean": 2, "var": 3}, "conv": {"kernel": 4}}
      >>> variables = jaxnorm.tools.variables_from_nnx(state, {("bn",): ("norm",)})
      >>> variables["params"]
      {'norm': {'scale': 1}, 'conv': {'kernel': 4}}
      >>> variables["batch_stats"]
      {'norm': {'mean': 2, 'var': 3}}
    """
    if not is_node(state):
        check_mapping(state, "state", "nnx.to_pure_dict(nnx.state(model))")
    if {"params", "batch_stats"} <= children(state).keys():
        raise ValueError(
            "state must be a pure dict of an NNX model, got the variables of a Linen "
            "model, with params and batch_stats. To convert those, call "
            "variables_to_nnx."
        )
    _check_paths(paths)
    leaves = list(walk(state))
    measured = {path[:-1] for path in leaves if path[-1] in ("mean", "var")}
    new_paths = _rename(leaves, paths or {})
    variables: Variables = {"params": {}, "batch_stats": {}}
    for old, new in new_paths.items():
        collection = "params"
        if old[:-1] in measured:
            collection = COLLECTIONS.get(str(old[-1]), "params")
        insert(variables, (collection, *new), node_at(state, old[:-1])[old[-1]])
    return variables


def variables_to_nnx(
    variables: Mapping[str, Any], paths: Mapping[Any, AnyPath] | None = None
) -> dict[Any, Any]:
    """Returns a Linen variables tree as the state of an NNX model.

    This is the inverse of `variables_from_nnx`, for `nnx.replace_by_pure_dict`.

    Args:
      variables: The collections params and batch_stats.
      paths: As in `variables_from_nnx`, a dict from NNX paths to Linen paths.

    Returns:
      Nested dicts, in which the params and batch_stats of a layer are in one node.

    Raises:
      TypeError: If `variables` is not a dict, but for instance a model, or a path is
        not a tuple.
      ValueError: If there is another collection, a path matches no leaf, or two leaves
        get the same path.

    Example:
      >>> import jaxnorm.tools
      >>> jaxnorm.tools.variables_to_nnx(
      ...     {"params": {"bn": {"scale": 1}}, "batch_stats": {"bn": {"mean": 2}}}
      ... )
      {'bn': {'scale': 1, 'mean': 2}}
    """
    check_mapping(variables, "variables", LINEN)
    others = variables.keys() - {"params", "batch_stats"}
    if others:
        raise ValueError(
            f"variables must have only the collections params and batch_stats, got "
            f"{sorted(others)} too. Remove these and convert them yourself."
        )
    _check_paths(paths)
    inverse = {new: old for old, new in (paths or {}).items()}
    located = [(key, path) for key in variables for path in walk(variables[key])]
    new_paths = _rename([path for _, path in located], inverse)
    state: dict[Any, Any] = {}
    for collection, old in located:
        node = node_at(variables, (collection, *old[:-1]))
        insert(state, new_paths[old], node[old[-1]])
    return state


def _rename(
    leaves: list[AnyPath], paths: Mapping[AnyPath, AnyPath]
) -> dict[AnyPath, AnyPath]:
    """Returns the new path of each leaf."""
    renamed, used = {}, set()
    for leaf in leaves:
        # Only nodes are renamed, not leaves.
        for length in range(len(leaf) - 1, -1, -1):
            if leaf[:length] in paths:
                used.add(leaf[:length])
                renamed[leaf] = (*paths[leaf[:length]], *leaf[length:])
                break
        else:
            renamed[leaf] = leaf
    unused = [path for path in paths if path not in used]
    if unused:
        raise ValueError(
            f"paths must name nodes with leaves, got {unused}, which have none. The "
            f"leaves are {leaves[:9]}."
        )
    return renamed


def _check_paths(paths: Mapping[AnyPath, AnyPath] | None) -> None:
    """Checks that the paths are tuples, and that the new ones differ."""
    paths = paths or {}
    as_paths(paths, "paths")
    new = as_paths(paths.values(), "paths")
    if len(set(new)) < len(new):
        raise ValueError(
            f"The new paths must differ from each other, got {new}. Change the values "
            "of paths."
        )
