"""Converted layers into the variables of a model, so that none is lost unseen."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnorm.tools._trees import (
    boxed_like,
    children,
    is_node,
    node_at,
    unboxed,
    walk,
    with_children,
)
from jaxnorm.tools.convert.layers import LINEN, Variables, check_mapping


def insert_variables(variables: Mapping[str, Any], new: Mapping[str, Any]) -> Variables:
    """Returns variables with the leaves of others in the place of theirs.

    Flax takes no offence at variables that no module reads, nor at those that stayed as
    they were initialized. Here each new leaf must have a place.

    Args:
      variables: Those of a model, as from `init`: nested dicts of arrays.
      new: Some of them anew, such as `norms_from_torch` returns.

    Returns:
      Nested dicts. The new leaves keep their dtypes, and come into the boxes of
      partitioned parameters, where these were.

    Raises:
      TypeError: If one of the two is not a dict, but a model for instance.
      ValueError: If a new leaf is not in `variables`, or has another shape there.

    Example:
      >>> import numpy as np, jaxnorm.tools
      >>> variables = {"params": {"bn": {"scale": np.ones(2), "bias": np.zeros(2)}}}
      >>> new = {"params": {"bn": {"scale": np.array([3.0, 4.0])}}}
      >>> jaxnorm.tools.insert_variables(variables, new)["params"]["bn"]
      {'scale': array([3., 4.]), 'bias': array([0., 0.])}
    """
    check_mapping(variables, "variables", LINEN)
    check_mapping(new, "new", "what a converter returns, norms_from_torch for instance")
    leaves = dict.fromkeys(walk(variables))
    for path in walk(new):
        node = node_at(variables, path[:-1])
        if path not in leaves:
            raise ValueError(_no_place(path, list(leaves)))
        wanted = np.shape(unboxed(node[path[-1]]))
        found = np.shape(unboxed(node_at(new, path[:-1])[path[-1]]))
        if found != wanted:
            order = (
                " The axes are in another order: PyTorch's dense kernels need "
                "weight.T, and those of 2-D convolutions weight.transpose(2, 3, 1, 0)."
            ) * (sorted(found) == sorted(wanted))
            raise ValueError(
                f"{path} must have the shape {wanted}, got {found}.{order}"
            )
    inserted: Variables = _insert(variables, new)
    return inserted


def _no_place(path: tuple[Any, ...], leaves: list[tuple[Any, ...]]) -> str:
    """Returns what is wrong where the variables have no leaf at a path."""
    lacking = f"The variables must have a leaf at {path}, and have none."
    if path[-1] == "count" and any(leaf[:-1] == path[:-1] for leaf in leaves):
        return (
            f"{lacking} A layer counts its updates if its momentum is a function, such "
            "as jaxnorm.warmup_momentum(). For one whose momentum is a number, convert "
            "with counted=False."
        )
    collections = list(dict.fromkeys(leaf[0] for leaf in leaves))
    if path[0] not in collections:
        return (
            f"{lacking} They start with {collections}: put what is new below one of "
            'these, {"params": ...} for instance.'
        )
    alike = [
        leaf[1:-1] for leaf in leaves if (leaf[0], leaf[-1]) == (path[0], path[-1])
    ]
    if not alike:
        layers = list(dict.fromkeys(leaf[1:-1] for leaf in leaves))
        return f"{lacking} No layer has a {path[-1]}; there are {layers[:8]}."
    return (
        f"{lacking} There is a {path[-1]} at {alike[:8]}{' ...' * (len(alike) > 8)}. "
        "Name the path of each layer in the model: layers={'its name': "
        "('BatchNorm_0',)}."
    )


def _insert(old: Any, new: Any) -> Any:
    given = children(new)
    return with_children(
        old,
        {
            key: _insert(value, given.get(key))
            if is_node(value)
            else _replace(value, given[key])
            if key in given
            else value
            for key, value in children(old).items()
        },
    )


def _replace(old: Any, new: Any) -> Any:
    return boxed_like(old, new)
