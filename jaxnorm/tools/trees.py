"""Nested dicts, as Flax keeps variables in, and lists of them.

Any mapping or named tuple is a node, and a list or tuple that holds one: one of numbers
is an array.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str, ...]
"""Names from the root of a tree to a node or a leaf."""


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


def walk(tree: Any) -> Iterator[tuple[Any, ...]]:
    """Yields the paths of all leaves."""
    for key, value in children(tree).items():
        if is_node(value):
            for path in walk(value):
                yield (key, *path)
        else:
            yield (key,)


def node_at(tree: Any, path: tuple[Any, ...]) -> Mapping[Any, Any]:
    """Returns the parts of the node at a path; none if there is none, or a leaf."""
    node = children(tree)
    for part in path:
        node = children(node.get(part))
    return node


def insert(tree: dict[Any, Any], path: tuple[Any, ...], leaf: Any) -> None:
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


def unboxed(leaf: Any) -> Any:
    """Returns a leaf without the box, of a partitioned parameter, that it may be in.

    Boxes of Flax are told by their methods, since this package does not import it.
    """
    return leaf.unbox() if is_box(leaf) else leaf


def is_box(leaf: Any) -> bool:
    """Returns whether a leaf is in a box, as `nn.with_partitioning` puts it."""
    return hasattr(leaf, "unbox") and hasattr(leaf, "replace_boxed")
