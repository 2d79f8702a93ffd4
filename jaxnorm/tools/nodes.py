"""Variables of a model, seen as nodes: the arrays of one layer, by name."""

import inspect
from collections.abc import Mapping
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

Key = Any  # of a dict: a string, or the integer of a list
Path = tuple[Key, ...]
Leaves = dict[Path, Any]
Node = dict[Key, Any]


def leaves(tree: object) -> Leaves:
    """Returns the leaves of a tree by their paths; boxes with metadata are leaves."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)
    return {keys(path): leaf for path, leaf in flat}


def keys(path: tuple[object, ...]) -> Path:
    """Returns a path of JAX as plain keys."""
    return tuple(_key(entry) for entry in path)


def nested(flat: Leaves) -> Node:
    """Returns nested dicts with the given leaves."""
    tree: Node = {}
    for path, leaf in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def nodes(flat: Leaves, roots: tuple[Path, ...] = ((),)) -> dict[Path, Node]:
    """Returns by its path each node that has arrays, and these by their names.

    Args:
      flat: Leaves by their paths.
      roots: Where the trees start that are seen as one, collections for instance.
    """
    found: dict[Path, Node] = {}
    for path, leaf in flat.items():
        for root in roots:
            if len(path) > len(root) and path[: len(root)] == root:
                node = found.setdefault(path[len(root) : -1], {})
                node[path[-1]] = leaf
    return found


def roots(variables: object) -> tuple[Path, ...]:
    """Returns where parameters start, and statistics if they are apart from them."""
    if isinstance(variables, Mapping) and "params" in variables:
        return (("params",), ("batch_stats",))
    return ((),)


def is_box(node: object) -> bool:
    """Whether it holds an array as `value`, as Flax's metadata and variables do."""
    # not by hasattr, since NNX warns of whoever reads it
    return inspect.getattr_static(node, "value", node) is not node


def _key(entry: object) -> Key:
    match entry:
        case DictKey(key=key) | FlattenedIndexKey(key=key):
            return key
        case GetAttrKey(name=name):
            return name
        case SequenceKey(idx=index):
            return index
    raise TypeError(f"no key of a tree is known as {entry!r}.")
