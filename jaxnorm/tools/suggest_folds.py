"""Proposals of batch norms to fold, from the names of layers and norms."""

import collections
import re
from collections.abc import Mapping
from typing import Any

from jax import numpy as jnp

from jaxnorm.tools._trees import (
    Key,
    Node,
    Path,
    children,
    is_train_state,
    leaves,
    nodes,
    roots,
)
from jaxnorm.tools.fold_model import NORM_NAMES, Fold

_LAYER = re.compile(r"conv_?transpose|conv|dense|linear|fc")
_NORM = re.compile(r"batch_?norm|bn|norm")

_FIX = (
    'Pass {"params": ..., "batch_stats": ...} of the whole model, or for an NNX model '
    "nnx.to_pure_dict(nnx.state(model)). Group norm, layer norm and other per-example "
    "norms cannot be folded."
)


def suggest_folds(
    variables: Mapping[Key, Any],
    *,
    epsilon: float = 1e-5,
    transpose_kernel: bool | None = None,
) -> tuple[Fold, ...]:
    """Proposes which batch norms to fold into which layers, for `fold_model`.

    The proposals are guesses from names, which do not show what a model computes: an
    activation may be between layer and norm, or the norm may precede the layer.
    `fold_model` checks them. A layer and a norm after it are paired if they have the
    same parent and the same number of features, and one of these holds:

    * Their names differ only in the words for layer and norm: Conv_0 and BatchNorm_0,
      conv1 and bn1, conv_proj and norm_proj.
    * Their names have consecutive numbers: 0 and 1, layers_3 and layers_4, downsample_0
      and downsample_1.
    * No other unpaired layer and no other unpaired norm of the parent has this number
      of features: Dense_0 and BatchNorm_2.

    If two layers match a norm, none is proposed. The output axis is the last axis of
    the kernel. For a layer with "transpose" in its name it may also be the last but
    one, as in `nn.ConvTranspose(transpose_kernel=True)`.

    Args:
      variables: As for `fold_model`.
      epsilon: Epsilon of the norms, which the variables do not contain.
      transpose_kernel: `transpose_kernel` of the layers with "transpose" in their
        names. None infers it from the number of features; if both axes have this
        number, the output axis is the last.

    Returns:
      The proposals, in the order of the paths of the norms; an empty list if no names
      match.

    Raises:
      TypeError: If `variables` is a list, a tuple or a TrainState.
      ValueError: If there are no batch norms with statistics, or no layers with a
        kernel; for instance, if `variables` are only the parameters.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxnorm.tools import suggest_folds
      >>> norm = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
      >>> folds = suggest_folds({"conv1": {"kernel": jnp.ones((2, 3))}, "bn1": norm})
      >>> [(fold.layer, fold.norm) for fold in folds]
      [(('conv1',), ('bn1',))]
    """
    if isinstance(variables, list | tuple) or is_train_state(variables):
        raise TypeError(
            "variables must be a dict of the variables of one model, got "
            f"{type(variables).__name__}. {_FIX}"
        )
    layers: dict[Path, tuple[int, ...]] = {}  # the shapes of their kernels
    norms: dict[Path, int] = {}
    for path, node in nodes(leaves(variables), roots(variables)).items():
        if path and _is_norm(node):
            norms[path] = jnp.size(node["mean"])
        elif path and jnp.ndim(node.get("kernel", 0)) >= 2:
            layers[path] = jnp.shape(node["kernel"])

    lacking = None
    if not norms:
        lacking = "batch norms with mean and var"
    elif not layers:
        lacking = "layers with a kernel"
    elif any("batch_stats" in path for path in norms):
        lacking = "its collections at the top level"
    if lacking:
        raise ValueError(
            f"variables must have {lacking}, got {type(variables).__name__} with the "
            f"keys {list(children(variables))}. {_FIX}"
        )

    def siblings(axis: int, *, paired: set[Path]) -> list[tuple[Path, Path]]:
        return [
            (norm, layer)
            for norm, features in norms.items()
            for layer, shape in layers.items()
            if layer[:-1] == norm[:-1] and features == shape[axis]
            if paired.isdisjoint((norm, layer))
        ]

    transposed = [path for path in layers if "transpose" in str(path[-1]).lower()]
    known = set(transposed) if transpose_kernel else set()
    last = siblings(-1, paired=known)
    found = _unambiguous([pair for pair in last if _names_match(*pair)])
    found += _unambiguous(siblings(-1, paired=known.union(*found)))
    # Only among the rest, because most layers have their outputs last.
    before = siblings(-2, paired=set().union(*found))
    others = [p for p in before if p[1] in transposed and _names_match(*p)]
    if transpose_kernel is False:
        others = []
    axes = dict.fromkeys(found, -1) | dict.fromkeys(_unambiguous(others), -2)
    return tuple(
        Fold(layer, norm, epsilon, in_axes=-3 - axis, out_axes=axis)
        for (norm, layer), axis in sorted(axes.items(), key=str)
    )


def _unambiguous(pairs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Returns the pairs whose paths are in no other pair."""
    counts = collections.Counter(path for pair in pairs for path in pair)
    return [pair for pair in pairs if counts[pair[0]] == counts[pair[1]] == 1]


def _is_norm(node: Node) -> bool:
    """Returns whether a node has the variables of a batch norm."""
    needed, allowed = NORM_NAMES
    return needed <= set(node) <= allowed and jnp.ndim(node["mean"]) == 1


def _names_match(norm: Path, layer: Path) -> bool:
    """Returns whether the names suggest that the norm follows the layer."""
    first, second = str(layer[-1]), str(norm[-1])
    rest = _remove_word(_LAYER, first)
    if rest is not None and rest == _remove_word(_NORM, second):
        return True
    before, after = _split_number(first), _split_number(second)
    return bool(before and after and (before[0], before[1] + 1) == after)


def _remove_word(words: re.Pattern[str], name: str) -> str | None:
    """Returns a name without the first of the words in it; None if it has none."""
    rest, found = words.subn("", name.lower(), count=1)
    return rest.strip("_") if found else None


def _split_number(name: str) -> tuple[str, int] | None:
    """Returns the text of a name and the number at its end; None without a number."""
    match = re.fullmatch(r"(\D*)(\d+)", name)
    return (match[1], int(match[2])) if match else None
