"""Trees of a model's variables: their paths, nodes, leaves and boxes.

A node is a mapping, a named tuple, or a list or tuple that contains a node. A list or
tuple of numbers is an array. A box, in which Flax puts an array with metadata, is a
leaf.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from jaxnorm._core.arrays.boxes import has_attribute, is_box

Key = Any  # a string, or an integer as the index of a list
Path = tuple[Key, ...]
"""The keys from the root of a tree to a node or leaf."""
Leaves = dict[Path, Any]
Node = dict[Key, Any]


def leaves(tree: object) -> Leaves:
    """Returns a dict from path to leaf; boxes with metadata are leaves."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)
    return {keys(path): leaf for path, leaf in flat}


def keys(path: tuple[object, ...]) -> Path:
    """Converts a JAX key path to plain keys."""
    return tuple(_key(entry) for entry in path)


def as_paths(paths: Iterable[Any], name: str) -> list[Path]:
    """Returns the paths given by a user, as tuples.

    Raises:
      TypeError: If a path is a single name or index, for instance because a comma is
        missing.
    """
    given = [paths] if isinstance(paths, str) else list(paths)
    for path in given:
        if isinstance(path, str | int):
            raise TypeError(
                f"{name} must hold paths, each a tuple of names, got {path!r}. A path "
                f"with one name needs a comma: ({path!r},)."
            )
    return [tuple(path) for path in given]


def nested(flat: Leaves) -> Node:
    """Returns the nested dicts that have the given leaves."""
    tree: Node = {}
    for path, leaf in flat.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def nodes(flat: Leaves, roots: tuple[Path, ...] = ((),)) -> dict[Path, Node]:
    """Returns a dict from the path of each node with arrays to a dict of the arrays.

    Args:
      flat: Leaves by their paths.
      roots: Paths of subtrees to merge into one tree, such as collections.
    """
    found: dict[Path, Node] = {}
    for path, leaf in flat.items():
        for root in roots:
            if len(path) > len(root) and path[: len(root)] == root:
                node = found.setdefault(path[len(root) : -1], {})
                node[path[-1]] = leaf
    return found


def roots(variables: object) -> tuple[Path, ...]:
    """Returns the paths of the collections, or of the root if there are none."""
    if isinstance(variables, Mapping) and "params" in variables:
        return (("params",), ("batch_stats",))
    return ((),)


def is_train_state(value: object) -> bool:
    """Returns whether a value is the state of a training loop, not variables.

    It is recognized by its attributes. `params` alone is not enough, because an Equinox
    module may have an attribute of that name.
    """
    if isinstance(value, Mapping):
        return False
    return has_attribute(value, "params") and (
        has_attribute(value, "opt_state") or has_attribute(value, "batch_stats")
    )


def is_node(value: object) -> bool:
    """Returns whether a value is a node of a tree, not a leaf."""
    if isinstance(value, list | tuple):
        return hasattr(value, "_fields") or any(map(is_node, value))
    return isinstance(value, Mapping)


def children(node: Any) -> Mapping[Any, Any]:
    """Returns the children of a node by their keys, or an empty dict for a leaf.

    The keys of a list are its indices.
    """
    if not is_node(node):
        return {}
    if isinstance(node, Mapping):
        return node
    return node._asdict() if hasattr(node, "_fields") else dict(enumerate(node))


def with_children(node: Any, parts: dict[Any, Any]) -> Any:
    """Returns a node of the same type with new children; a dict for any mapping."""
    if isinstance(node, Mapping):
        return parts
    if hasattr(node, "_fields"):
        return type(node)(**parts)
    return type(node)(parts.values())


def walk(tree: Any) -> Iterator[Path]:
    """Yields the paths of all leaves."""
    for key, value in children(tree).items():
        if is_node(value):
            for path in walk(value):
                yield (key, *path)
        else:
            yield (key,)


def node_at(tree: Any, path: Path) -> Mapping[Any, Any]:
    """Returns the children of the node at a path; none for a leaf or a missing node."""
    node = children(tree)
    for part in path:
        node = children(node.get(part))
    return node


def insert(tree: dict[Any, Any], path: Path, leaf: Any) -> None:
    """Adds a leaf to a tree of nested dicts, and the missing nodes above it.

    Raises:
      ValueError: If the path exists already, or a leaf is above it.
    """
    node: Any = tree
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ValueError(
                f"each path must lead through nodes, got {path}, in which {part!r} is "
                "an array. Give one of the two arrays another path."
            )
    if path[-1] in node:
        raise ValueError(
            f"each array must have a different path, got two arrays for {path}. Give "
            "one of them another path."
        )
    node[path[-1]] = leaf


def unboxed(leaf: Any) -> Any:
    """Returns the array in a box of a partitioned parameter; other leaves unchanged.

    A box is recognized by its methods, because this package does not import Flax.
    """
    return leaf.unbox() if hasattr(leaf, "unbox") else leaf


def boxed_like(old: Any, new: Any) -> Any:
    """Returns the new leaf in the box of the old leaf, or unboxed if there is none."""
    return old.replace_boxed(unboxed(new)) if hasattr(old, "replace_boxed") else new


def _key(entry: object) -> Key:
    """Converts an entry of a JAX key path to a plain key."""
    match entry:
        case DictKey(key=key) | FlattenedIndexKey(key=key):
            return key
        case GetAttrKey(name=name):
            return name
        case SequenceKey(idx=index):
            return index
    raise TypeError(
        "the nodes of a tree must be dicts, lists, tuples or dataclasses, got the key "
        f"{entry!r} of type {type(entry).__name__}. Convert the tree to nested dicts."
    )
