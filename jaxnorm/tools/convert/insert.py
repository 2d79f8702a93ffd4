"""Insertion of converted layers into the variables of a model, with checks."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from jaxnorm._core.arguments.warning import warn_caller
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
    """Returns the variables with some leaves replaced by new ones of the same path.

    Flax ignores variables that no module reads, and does not notice variables that keep
    their initial values. Here each new leaf must replace an existing one.

    Args:
      variables: Variables of a model, as `init` returns them: nested dicts of arrays.
      new: New values for some of the leaves, such as `norms_from_torch` returns.

    Returns:
      Nested dicts. The new leaves keep their dtypes. If an old leaf is in the box of a
      partitioned parameter, so is the new one.

    Warns:
      UserWarning: If layers get new parameters, but keep their running statistics.

    Raises:
      TypeError: If one of the arguments is not a dict, but for instance a model.
      ValueError: If a new leaf is not in `variables`, or has another shape there.

    Example:
      >>> import numpy as np, jaxnorm.tools
      >>> variables = {"params": {"bn": {"scale": np.ones(2), "bias": np.zeros(2)}}}
      >>> new = {"params": {"bn": {"scale": np.array([3.0, 4.0])}}}
      >>> jaxnorm.tools.insert_variables(variables, new)["params"]["bn"]
      {'scale': array([3., 4.]), 'bias': array([0., 0.])}
    """
    check_mapping(variables, "variables", LINEN)
    check_mapping(new, "new", "the result of a converter, such as norms_from_torch")
    leaves = dict.fromkeys(walk(variables))
    for path in walk(new):
        node = node_at(variables, path[:-1])
        if path not in leaves:
            raise ValueError(_explain_missing(path, list(leaves)))
        wanted = np.shape(unboxed(node[path[-1]]))
        found = np.shape(unboxed(node_at(new, path[:-1])[path[-1]]))
        if found != wanted:
            order = (
                " The axes are in another order: convert PyTorch's dense kernels with "
                "weight.T, and 2-D convolutions with weight.transpose(2, 3, 1, 0)."
            ) * (sorted(found) == sorted(wanted))
            raise ValueError(
                f"{path} must have the shape {wanted}, got {found}.{order}"
            )
    _warn_of_missing_statistics(leaves, set(walk(new)))
    inserted: Variables = _insert(variables, new)
    return inserted


def _warn_of_missing_statistics(
    leaves: Iterable[tuple[Any, ...]], new: Collection[tuple[Any, ...]]
) -> None:
    """Warns of layers with new parameters, but old running statistics."""
    measured = {path[1:-1] for path in leaves if path[0] == "batch_stats"}
    given = {path[1:-1] for path in new if path[0] == "batch_stats"}
    learned = dict.fromkeys(path[1:-1] for path in new if path[0] == "params")
    missing = [layer for layer in learned if layer in measured - given]
    if missing:
        warn_caller(
            f"{missing[:8]}{' ...' * (len(missing) > 8)} get new parameters, but keep "
            "their batch_stats, because new holds none for them. Does the checkpoint "
            "hold the running statistics? In PyTorch, net.state_dict() does, and "
            "net.named_parameters() does not."
        )


def _explain_missing(path: tuple[Any, ...], leaves: list[tuple[Any, ...]]) -> str:
    """Returns the error message for a path at which the variables have no leaf."""
    lacking = f"variables must have a leaf at {path}, got none."
    if path[-1] == "count" and any(leaf[:-1] == path[:-1] for leaf in leaves):
        return (
            f"{lacking} A layer counts its updates only if its momentum is a function, "
            "such as jaxnorm.warmup_momentum(). If the momentum is a number, convert "
            "with counted=False."
        )
    collections = list(dict.fromkeys(leaf[0] for leaf in leaves))
    if path[0] not in collections:
        return (
            f"{lacking} Their collections are {collections}: put the new leaves into "
            'one of these, for instance {"params": ...}.'
        )
    alike = [
        leaf[1:-1] for leaf in leaves if (leaf[0], leaf[-1]) == (path[0], path[-1])
    ]
    if not alike:
        layers = list(dict.fromkeys(leaf[1:-1] for leaf in leaves))
        return f"{lacking} No layer has a {path[-1]}. The layers are {layers[:8]}."
    return (
        f"{lacking} There is a {path[-1]} at {alike[:8]}{' ...' * (len(alike) > 8)}. "
        "Pass the path of each layer in the model to the converter: "
        "layers={'its name': ('BatchNorm_0',)}."
    )


def _insert(old: Any, new: Any) -> Any:
    """Returns the old tree with the leaves of the new tree."""
    given = children(new)
    return with_children(
        old,
        {
            key: _insert(value, given.get(key))
            if is_node(value)
            else boxed_like(value, given[key])
            if key in given
            else value
            for key, value in children(old).items()
        },
    )
