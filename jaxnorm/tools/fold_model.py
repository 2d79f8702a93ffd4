"""Folding of the batch norms of a model, checked against the original model."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import PyTree

from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.arrays.boxes import is_box
from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm._core.running.stats import BatchStats
from jaxnorm.tools._apply import check_apply
from jaxnorm.tools._trees import (
    Key,
    Node,
    Path,
    leaves,
    nested,
    nodes,
    roots,
)
from jaxnorm.tools.fold_batch_norm import Padding, fold_batch_norm

Apply = Callable[[Any, Any], PyTree]

NORM_NAMES = ({"mean", "var"}, {"mean", "var", "count", "scale", "bias"})


@dataclasses.dataclass(frozen=True)
class Fold:
    """A batch norm and the layer into which to fold it.

    The attributes from `epsilon` on are arguments of `fold_batch_norm`.

    Attributes:
      layer: Path of the layer in the variables, without the collection; for instance
        ("block", "Conv_0").
      norm: Path of the norm in the variables, without the collection.
      epsilon: Epsilon of the norm.
      norm_first: Whether the norm precedes the layer.
      in_axes: The axis or axes of the kernel for the inputs of the layer.
      out_axes: The axis or axes of the kernel for the outputs of the layer.
      groups: `feature_group_count` of a convolution.
      padding: Padding of a convolution; needed only with `norm_first`.
      transposed: Whether the layer is a transposed convolution.
    """

    layer: Path
    norm: Path
    epsilon: float = 1e-5
    norm_first: bool = False
    in_axes: Axes = -2
    out_axes: Axes = -1
    groups: int = 1
    padding: Padding | None = None
    transposed: bool = False


def fold_model(
    variables: Mapping[Key, Any],
    folds: Iterable[Fold],
    *,
    apply: Apply,
    folded_apply: Apply,
    batch: PyTree,
    tolerance: float = 1e-5,
) -> dict[Key, Any]:
    """Folds batch norms into layers, and checks that the model computes the same.

    Args:
      variables: Variables of a Linen model, {"params": ..., "batch_stats": ...}, or of
        an NNX model as a pure dict, in which each norm has one node with scale, bias,
        mean and var.
      folds: The norms to fold, and the layers to fold them into; `suggest_folds`
        proposes them. A norm may precede, and be folded into, several layers.
      apply: `apply(variables, batch)` returns the output of the model in inference.
      folded_apply: `folded_apply(folded_variables, batch)` returns the output of the
        model without these norms, whose layers have a bias.
      batch: A sample input for both functions.
      tolerance: Largest allowed difference of the outputs, relative to the largest
        magnitude of the original output. The default suits float32; 3e-2 suits
        bfloat16. Both outputs are computed with the highest matmul precision of the
        device.

    Returns:
      Nested dicts of variables without the nodes of the norms, and with a bias in each
      layer that a norm was folded into.

    Raises:
      TypeError: If the variables are in boxes, `folds` contains anything but `Fold`,
        or a path is not a tuple.
      ValueError: If a path does not lead to a layer or batch norm, a shape is wrong, or
        the outputs differ.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp, jaxnorm.linen
      >>> from jaxnorm.tools import Fold, fold_model
      >>> norm = jaxnorm.linen.BatchNorm(use_running_average=True)
      >>> model = nn.Sequential([nn.Dense(3, use_bias=False), norm])
      >>> x = jnp.ones((1, 2))
      >>> variables = model.init(jax.random.key(0), x)
      >>> folded = fold_model(
      ...     variables,
      ...     [Fold(layer=("layers_0",), norm=("layers_1",))],
      ...     apply=model.apply,
      ...     folded_apply=nn.Sequential([nn.Dense(3)]).apply,
      ...     batch=x,
      ... )
      >>> jax.tree.map(jnp.shape, folded)
      {'params': {'layers_0': {'bias': (3,), 'kernel': (2, 3)}}}
    """
    check_apply(apply, "apply", "model.apply, with train=False if it has this argument")
    check_apply(
        folded_apply, "folded_apply", "the apply of the model without the norms"
    )
    folded = _fold(variables, _as_folds(folds))
    # By default GPUs and TPUs round products to fewer bits, and the folded model would
    # round at other places than the original.
    with jax.default_matmul_precision("highest"):
        _check_same(apply(variables, batch), folded_apply(folded, batch), tolerance)
    return folded


def _as_folds(folds: object) -> tuple[Fold, ...]:
    """Returns the folds as a tuple, and checks their types."""
    given = tuple(folds) if isinstance(folds, Iterable) else ()
    others = [fold for fold in given if not isinstance(fold, Fold)]
    if others or not isinstance(folds, Iterable):
        raise TypeError(
            "folds must be an iterable of jaxnorm.tools.Fold, got "
            + (f"one of {type(others[0]).__name__}" if others else type(folds).__name__)
            + ". Write [Fold(layer=(...,), norm=(...,))]."
        )
    return given


def _fold(variables: Mapping[Key, Any], folds: tuple[Fold, ...]) -> dict[Key, Any]:
    """Returns the variables with all norms folded, without checking the outputs."""
    flat, starts = leaves(variables), roots(variables)
    if any(is_box(leaf) for leaf in flat.values()):
        raise TypeError(
            "variables must hold arrays, got boxes with metadata. Remove the boxes: "
            "flax.linen.meta.unbox(variables), or flax.nnx.to_pure_dict(state)."
        )
    for fold in folds:
        found = nodes(flat, starts)
        layer = _node(found, fold.layer, "layer", {"kernel"})
        norm = _node(found, fold.norm, "norm", *NORM_NAMES)
        options = {
            field.name: getattr(fold, field.name)
            for field in dataclasses.fields(fold)
            if field.name not in ("layer", "norm")
        }
        try:
            kernel, bias = fold_batch_norm(
                jnp.asarray(layer["kernel"]),
                _array(layer, "bias"),
                BatchStats(jnp.asarray(norm["mean"]), jnp.asarray(norm["var"])),
                _array(norm, "scale"),
                _array(norm, "bias"),
                **options,
            )
        except (TypeError, ValueError) as error:
            error.add_note(f"The norm is {fold.norm}, the layer is {fold.layer}.")
            raise
        flat[(*starts[0], *fold.layer, "kernel")] = kernel
        flat[(*starts[0], *fold.layer, "bias")] = bias
    gone = {(*start, *fold.norm) for fold in folds for start in starts}
    return nested({path: leaf for path, leaf in flat.items() if path[:-1] not in gone})


def _node(
    found: dict[Path, Node],
    path: Path,
    role: str,
    needed: set[str],
    allowed: set[str] | None = None,
) -> Node:
    """Returns the node at a path, if it has all needed and only allowed names."""
    if not isinstance(path, tuple):
        raise TypeError(
            f"the path of a {role} must be a tuple of keys, got {path!r}. Write "
            f"{role}=({path!r},)."
        )
    if path not in found:
        raise ValueError(
            f"{role} must be the path of a node with arrays, got {path}. The nodes "
            f"with arrays are {sorted(found, key=str)}."
        )
    names = set(found[path])
    if not needed <= names or (allowed is not None and not names <= allowed):
        raise ValueError(
            f"the {role} at {path} must have {' and '.join(sorted(needed))}"
            + (f", and no others than {sorted(allowed)}" if allowed else "")
            + f", got {sorted(names, key=str)}. Only a batch norm can be folded, into "
            'a layer with a kernel. For a Linen model, pass {"params": ..., '
            '"batch_stats": ...}, because both are needed.'
        )
    return found[path]


def _array(node: Node, name: str) -> jax.Array | None:
    """Returns an array of a node, or None if the node lacks it."""
    return jnp.asarray(node[name]) if name in node else None


def _check_same(original: PyTree, folded: PyTree, tolerance: float) -> None:
    """Raises ValueError if two outputs differ by more than the tolerance."""
    structures = [jax.tree.structure(tree) for tree in (original, folded)]
    if len(set(structures)) > 1:
        raise ValueError(
            "apply and folded_apply must return the same structure, got "
            f"{structures[0]} and {structures[1]}. Let both return only the output, "
            "without updated statistics."
        )
    for one, other in zip(
        jax.tree.leaves(original), jax.tree.leaves(folded), strict=True
    ):
        if jnp.shape(one) != jnp.shape(other):
            raise ValueError(
                "apply and folded_apply must return the same shapes, got "
                f"{jnp.shape(one)} and {jnp.shape(other)}. Pass the same model with "
                "and without the norms."
            )
        wide = accumulation_dtype(jnp.result_type(one))
        one, other = jnp.asarray(one).astype(wide), jnp.asarray(other).astype(wide)
        largest = float(jnp.max(jnp.abs(one), initial=0))
        difference = float(jnp.max(jnp.abs(one - other), initial=0))
        if not difference <= tolerance * largest:  # also raises for NaN
            raise ValueError(
                "the output of the folded model must differ from the original by at "
                f"most {tolerance:.0e} of its largest magnitude {largest:.2g}, got a "
                f"difference of {difference:.2g}. Usual causes: an activation, dropout "
                "or sum between layer and norm; zero padding between a norm and the "
                "layer after it; another epsilon (1e-3 in Keras); a layer or norm that "
                "is used twice; apply not in inference mode; a folded model without "
                "bias; a transposed convolution with transpose_kernel=True, which "
                "needs out_axes=-2; bfloat16, which needs a larger tolerance."
            )
