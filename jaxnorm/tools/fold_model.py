"""A model without its batch norms, checked against the one that has them."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from jax import numpy as jnp
from jaxtyping import PyTree

from jaxnorm._core.arguments.axes import Axes
from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm._core.running.stats import BatchStats
from jaxnorm.tools._apply import check_apply
from jaxnorm.tools._trees import (
    Key,
    Node,
    Path,
    is_box,
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
    """A batch norm, and the layer that it becomes part of.

    Attributes:
      layer: Path of the layer's node in the variables, without the collection:
        ("block", "Conv_0"), say.
      norm: Path of the norm's.
      epsilon: What the norm adds to the variance; the others are those of
        `fold_batch_norm`, too.
      norm_first: Whether the norm stands before the layer.
      in_axes: The axis or axes of the kernel that are the layer's inputs.
      out_axes: Those that are its outputs.
      groups: `feature_group_count` of a convolution.
      padding: That of a convolution; needed with `norm_first` only.
      transposed: Whether it is a transposed one.
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
      variables: A Linen model's, {"params": ..., "batch_stats": ...}, or an NNX model's
        as a pure dict, where scale, bias, mean and var stand in one node.
      folds: What to fold into what; `suggest_folds` proposes some. A norm may be folded
        into several layers that it stands before.
      apply: `apply(variables, batch)` is the output of the model in inference.
      folded_apply: `folded_apply(folded_variables, batch)` that of the model without
        these norms, whose layers have a bias.
      batch: A sample of the input, whatever the two take.
      tolerance: How far an output may be off, relative to the largest magnitude of the
        original; that of float32 by default, for bfloat16 3e-2 is more apt. The two are
        computed with the highest precision of products that the device has.

    Returns:
      Variables as nested dicts: without the nodes of the norms, and with a bias in each
      layer that has taken one up.

    Raises:
      TypeError: If variables are in boxes, or a path is not a tuple.
      ValueError: If a path leads nowhere, or not to a layer or batch norm; if shapes do
        not fit; or if the outputs differ.

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
    check_apply(apply, "apply", "model.apply, with train=False if it takes that")
    check_apply(folded_apply, "folded_apply", "that of the model without the norms")
    folded = _fold(variables, tuple(folds))
    # Else a GPU or TPU rounds products to fewer bits, in other places than before.
    with jax.default_matmul_precision("highest"):
        _check_same(apply(variables, batch), folded_apply(folded, batch), tolerance)
    return folded


def _fold(variables: Mapping[Key, Any], folds: tuple[Fold, ...]) -> dict[Key, Any]:
    flat, starts = leaves(variables), roots(variables)
    if any(is_box(leaf) for leaf in flat.values()):
        raise TypeError(
            "variables must hold arrays, got boxes with metadata. Take them off: "
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
            error.add_note(f"This is about {fold.norm} and {fold.layer}.")
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
    """Returns the node at a path, which must have some names and may have others."""
    if not isinstance(path, tuple):
        raise TypeError(
            f"the path of a {role} must be a tuple of keys, got {path!r}. Write "
            f"{role}=(...,)."
        )
    if path not in found:
        raise ValueError(
            f"there must be a {role} at {path}, and there is none. The nodes with "
            f"arrays are {sorted(found, key=str)}."
        )
    names = set(found[path])
    if not needed <= names or (allowed is not None and not names <= allowed):
        raise ValueError(
            f"the {role} at {path} must have {' and '.join(sorted(needed))}"
            + (f", and nothing beyond {sorted(allowed)}" if allowed else "")
            + f", got {sorted(names, key=str)}. Only batch norms are folded, into "
            "layers with a kernel."
        )
    return found[path]


def _array(node: Node, name: str) -> jax.Array | None:
    return jnp.asarray(node[name]) if name in node else None


def _check_same(original: PyTree, folded: PyTree, tolerance: float) -> None:
    structures = [jax.tree.structure(tree) for tree in (original, folded)]
    if len(set(structures)) > 1:
        raise ValueError(
            "apply and folded_apply must return the same structure, got "
            f"{structures[0]} and {structures[1]}. Let both return the output alone, "
            "without updates of statistics."
        )
    for one, other in zip(
        jax.tree.leaves(original), jax.tree.leaves(folded), strict=True
    ):
        if jnp.shape(one) != jnp.shape(other):
            raise ValueError(
                "apply and folded_apply must return the same shapes, got "
                f"{jnp.shape(one)} and {jnp.shape(other)}."
            )
        wide = accumulation_dtype(jnp.result_type(one))
        one, other = jnp.asarray(one).astype(wide), jnp.asarray(other).astype(wide)
        largest = float(jnp.max(jnp.abs(one), initial=0))
        difference = float(jnp.max(jnp.abs(one - other), initial=0))
        if not difference <= tolerance * largest:  # nor is NaN
            raise ValueError(
                f"the output of the folded model differs by {difference:.2g}, where "
                f"the largest magnitude of the original's is {largest:.2g} "
                f"(tolerance: {tolerance:.0e} of it). Usual causes: an activation, "
                "dropout or sum between layer and norm; zero padding after a norm that "
                "stands first; another epsilon (1e-3 in Keras); a layer or norm that "
                "is used twice; apply not in inference; a folded model without bias; a "
                "transposed convolution with transpose_kernel=True, whose out_axes are "
                "-2; bfloat16, which needs a larger tolerance."
            )
