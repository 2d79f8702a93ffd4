"""Boxes in which Flax puts an array with metadata; found without importing Flax."""

import inspect


def is_box(node: object) -> bool:
    """Returns whether a node is a box of Flax: metadata or a variable with a `value`.

    `value` alone is not enough, because a module may also have a child of that name,
    such as the value projection of an attention layer.
    """
    # Not with hasattr, because NNX warns when `value` is read.
    return has_attribute(node, "value") and (
        has_attribute(node, "unbox") or has_attribute(node, "get_metadata")
    )


def has_attribute(node: object, name: str) -> bool:
    """Returns whether a node has an attribute, without evaluating properties."""
    return inspect.getattr_static(node, name, node) is not node
