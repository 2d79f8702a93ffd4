"""Nested dicts, as Flax keeps variables in; any mapping is a node."""

from collections.abc import Iterator, Mapping
from typing import Any

Path = tuple[str, ...]
"""Names from the root of a tree to a node or a leaf."""


def walk(tree: Mapping[Any, Any]) -> Iterator[tuple[Any, ...]]:
    """Yields the paths of all leaves."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            for path in walk(value):
                yield (key, *path)
        else:
            yield (key,)


def node_at(tree: Mapping[Any, Any], path: tuple[Any, ...]) -> Mapping[Any, Any]:
    """Returns the node at a path; an empty one where there is none, or a leaf."""
    node: Any = tree
    for part in path:
        node = node.get(part, {}) if isinstance(node, Mapping) else {}
    return node if isinstance(node, Mapping) else {}


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
