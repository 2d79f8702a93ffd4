"""Which batch norm goes with which layer, as far as names tell."""

import collections
import re
from collections.abc import Mapping
from typing import Any

from jax import numpy as jnp

from jaxnorm.tools._trees import Key, Node, Path, leaves, nodes, roots
from jaxnorm.tools.fold_model import NORM_NAMES, Fold

_LAYER = re.compile(r"conv_?transpose|conv|dense|linear|fc")
_NORM = re.compile(r"batch_?norm|bn|norm")


def suggest_folds(
    variables: Mapping[Key, Any],
    *,
    epsilon: float = 1e-5,
    transpose_kernel: bool | None = None,
) -> tuple[Fold, ...]:
    """Proposes which batch norms to fold into which layers, for `fold_model`.

    A suggestion from names, which do not tell what a model computes: an activation may
    stand between the two, or the norm first. `fold_model` checks it. Paired are
    siblings, the norm after the layer, whose numbers of features agree:

    * whose names differ in the words for what they are: Conv_0 and BatchNorm_0, conv1
      and bn1, conv_proj and norm_proj;
    * that are numbered in a row: 0 and 1, layers_3 and layers_4, downsample_0 and
      downsample_1;
    * and those of a parent that are left over, if only one layer has a norm's number of
      features, and only one norm: Dense_0 and BatchNorm_2.

    Where two layers fit, none is proposed. The output is taken to be the kernel's last
    axis; of a layer with "transpose" in its name also the last but one, which
    `nn.ConvTranspose(transpose_kernel=True)` has it at.

    Args:
      variables: As for `fold_model`.
      epsilon: That of the norms; variables do not tell it.
      transpose_kernel: That of the layers with "transpose" in their names. None: told
        by the number of features; where both axes have it, the last is taken.

    Returns:
      The proposals, in the order of the norms' paths.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxnorm.tools import suggest_folds
      >>> norm = {"mean": jnp.zeros(3), "var": jnp.ones(3)}
      >>> folds = suggest_folds({"conv1": {"kernel": jnp.ones((2, 3))}, "bn1": norm})
      >>> [(fold.layer, fold.norm) for fold in folds]
      [(('conv1',), ('bn1',))]
    """
    layers: dict[Path, tuple[int, ...]] = {}  # the shapes of their kernels
    norms: dict[Path, int] = {}
    for path, node in nodes(leaves(variables), roots(variables)).items():
        if path and _is_norm(node):
            norms[path] = jnp.size(node["mean"])
        elif path and jnp.ndim(node.get("kernel", 0)) >= 2:
            layers[path] = jnp.shape(node["kernel"])

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
    found = _unique([pair for pair in last if _belong(*pair)])
    found += _unique(siblings(-1, paired=known.union(*found)))
    # Of what is left, since most layers have their outputs last.
    before = siblings(-2, paired=set().union(*found))
    others = [p for p in before if p[1] in transposed and _belong(*p)]
    if transpose_kernel is False:
        others = []
    axes = dict.fromkeys(found, -1) | dict.fromkeys(_unique(others), -2)
    return tuple(
        Fold(layer, norm, epsilon, in_axes=-3 - axis, out_axes=axis)
        for (norm, layer), axis in sorted(axes.items(), key=str)
    )


def _unique(pairs: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """Returns the pairs of which neither is in another."""
    counts = collections.Counter(path for pair in pairs for path in pair)
    return [pair for pair in pairs if counts[pair[0]] == counts[pair[1]] == 1]


def _is_norm(node: Node) -> bool:
    needed, allowed = NORM_NAMES
    return needed <= set(node) <= allowed and jnp.ndim(node["mean"]) == 1


def _belong(norm: Path, layer: Path) -> bool:
    """Whether they are named like a layer and the norm after it."""
    first, second = str(layer[-1]), str(norm[-1])
    rest = _without(_LAYER, first)
    if rest is not None and rest == _without(_NORM, second):
        return True
    before, after = _numbered(first), _numbered(second)
    return bool(before and after and (before[0], before[1] + 1) == after)


def _without(words: re.Pattern[str], name: str) -> str | None:
    rest, found = words.subn("", name.lower(), count=1)
    return rest.strip("_") if found else None


def _numbered(name: str) -> tuple[str, int] | None:
    match = re.fullmatch(r"(\D*)(\d+)", name)
    return (match[1], int(match[2])) if match else None
