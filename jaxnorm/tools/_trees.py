"""Trees of a model's variables: their paths, nodes and leaves, lists and boxes.

Any mapping or named tuple is a node, and a list or tuple that holds one: one of numbers
is an array. What Flax puts around an array is a leaf.
"""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

Key = Any  # of a dict: a string, or the integer of a list
Path = tuple[Key, ...]
"""Keys from the root of a tree to a node or a leaf."""
Leaves = dict[Path, Any]
Node = dict[Key, Any]


def leaves(tree: object) -> Leaves:
    """Returns the leaves of a tree by their paths; boxes with metadata are leaves."""
    flat, _ = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_box)
    return {keys(path): leaf for path, leaf in flat}


def keys(path: tuple[object, ...]) -> Path:
    """Returns a path of JAX as plain keys."""
    return tuple(_key(entry) for entry in path)


def as_paths(paths: Iterable[Any], name: str) -> list[Path]:
    """Returns the paths that a user gave, as tuples.

    Raises:
      TypeError: If one is a single name or index, as where a comma is missing.
    """
    given = [paths] if isinstance(paths, str) else list(paths)
    for path in given:
        if isinstance(path, str | int):
            raise TypeError(
                f"{name} must hold paths, each a tuple of names, got {path!r}. For a "
                f"path of one part write ({path!r},), with the comma."
            )
    return [tuple(path) for path in given]


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
    """Returns the nodes that hold arrays, by path, each as a dict of its arrays.

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
    """Returns the paths of the collections; the root, if there are none."""
    if isinstance(variables, Mapping) and "params" in variables:
        return (("params",), ("batch_stats",))
    return ((),)


def is_node(value: object) -> bool:
    """Returns whether it holds parts of a tree, rather than being a leaf."""
    if isinstance(value, list | tuple):
        return hasattr(value, "_fields") or any(map(is_node, value))
    return isinstance(value, Mapping)


def children(node: Any) -> Mapping[Any, Any]:
    """Returns the parts of a node by their keys; nothing for a leaf.

    The keys of a list are its indices.
    """
    if not is_node(node):
        return {}
    if isinstance(node, Mapping):
        return node
    return node._asdict() if hasattr(node, "_fields") else dict(enumerate(node))


def with_children(node: Any, parts: dict[Any, Any]) -> Any:
    """Returns a node of the same kind with other parts; a dict for any mapping."""
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
    """Returns the parts of the node at a path; none if there is none, or a leaf."""
    node = children(tree)
    for part in path:
        node = children(node.get(part))
    return node


def insert(tree: dict[Any, Any], path: Path, leaf: Any) -> None:
    """Adds a leaf to a tree of dicts, and the nodes above it.

    Raises:
      ValueError: If there is a leaf at the path or above it, or a node.
    """
    node: Any = tree
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ValueError(f"{path} is below {part!r}, which is an array already.")
    if path[-1] in node:
        raise ValueError(f"Two arrays have one place, {path}.")
    node[path[-1]] = leaf


def is_box(node: object) -> bool:
    """Whether it holds an array as `value`, as Flax's metadata and variables do.

    A module may have a part called value, too: the projection of an attention.
    """
    # not by hasattr, since NNX warns of whoever reads it
    return _has(node, "value") and (_has(node, "unbox") or _has(node, "get_metadata"))


def unboxed(leaf: Any) -> Any:
    """Returns a leaf without the box, of a partitioned parameter, that it may be in.

    Boxes are told by their methods, since this package does not import Flax.
    """
    return leaf.unbox() if hasattr(leaf, "unbox") else leaf


def boxed_like(old: Any, new: Any) -> Any:
    """Returns a new leaf in the box that the old one is in, or as it is."""
    return old.replace_boxed(unboxed(new)) if hasattr(old, "replace_boxed") else new


def _has(node: object, name: str) -> bool:
    return inspect.getattr_static(node, name, node) is not node


def _key(entry: object) -> Key:
    match entry:
        case DictKey(key=key) | FlattenedIndexKey(key=key):
            return key
        case GetAttrKey(name=name):
            return name
        case SequenceKey(idx=index):
            return index
    raise TypeError(f"no key of a tree is known as {entry!r}.")
