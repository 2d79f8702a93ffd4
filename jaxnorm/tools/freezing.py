"""Optimizers that leave normalizers alone."""

import operator
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import jax
from jaxtyping import PyTree

from jaxnorm.tools._trees import Path, is_box, keys, leaves
from jaxnorm.tools.normalization_mask import normalization_mask

if TYPE_CHECKING:
    import optax

_FIX = (
    'Pass {"params": ..., "batch_stats": ...}, or of an NNX model the model itself, '
    "since batch norms are told by their statistics."
)


def check_optimizer(optimizer: object) -> None:
    """Checks that it is of optax, and not the model or the optimizer of NNX.

    Raises:
      TypeError: If it is something else.
    """
    import optax

    if not isinstance(optimizer, optax.GradientTransformation):
        fix = ""
        if hasattr(optimizer, "gradient_transformation"):  # optax.MultiSteps
            fix = " Pass its optimizer.gradient_transformation()."
        raise TypeError(
            "optimizer must be a gradient transformation of optax, such as "
            f"optax.adamw(1e-3), got {type(optimizer).__name__}.{fix}"
        )


def freeze_parameters(
    optimizer: "optax.GradientTransformation",
    variables: PyTree,
    *,
    norms: Collection[Path] = (),
    only_with_statistics: bool = True,
) -> "optax.GradientTransformation":
    """Returns the optimizer, which then never moves the parameters of batch norms.

    Not by weight decay or momentum either: the optimizer does not see them, keeps no
    state of them, and counts them in no global norm. For fine-tuning. The running
    statistics are another matter: see `jaxnorm.linen.frozen_statistics`, and
    `jaxnorm.linen.freeze_batch_norms` for both.

    Args:
      optimizer: Any of optax.
      variables: The model's: of Linen {"params": ..., "batch_stats": ...}; of NNX the
        module, its state or the pure dict of that. Batch norms are told by their
        statistics, and found again in what is trained by their paths.
      norms: Paths of further nodes to freeze; as for `normalization_mask`.
      only_with_statistics: Whether batch normalizers are frozen only, which have
        running statistics, or all normalizers.

    Raises:
      TypeError: If `optimizer` is not a transformation of optax, or `variables` is a
        list or a tuple.
      ValueError: If there is nothing to freeze; and from the optimizer, if what it
        trains lacks a parameter that is to be frozen.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from jaxnorm.tools import freeze_parameters
      >>> params = {"norm": {"scale": jnp.ones(1)}, "dense": {"kernel": jnp.ones(1)}}
      >>> stats = {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}
      >>> optimizer = freeze_parameters(
      ...     optax.sgd(0.5), {"params": params, "batch_stats": stats}
      ... )
      >>> updates, _ = optimizer.update(params, optimizer.init(params), params)
      >>> updates["norm"]["scale"], updates["dense"]["kernel"]
      (Array([0.], dtype=float32), Array([-0.5], dtype=float32))
    """
    import optax

    check_optimizer(optimizer)
    if isinstance(variables, list | tuple):
        raise TypeError(
            "variables must be those of one model, got a "
            f"{type(variables).__name__}. {_FIX}"
        )
    mask = normalization_mask(
        variables, norms=norms, only_with_statistics=only_with_statistics
    )
    frozen = _places(variables, mask)
    if not frozen:
        raise ValueError(
            "variables must have normalizers to freeze, and have none"
            + (" with running statistics" if only_with_statistics else "")
            + f". {_FIX} Or name paths in norms."
        )

    def is_frozen(params: PyTree) -> PyTree[bool]:
        return _marked(params, frozen)

    def is_trained(params: PyTree) -> PyTree[bool]:
        return jax.tree.map(operator.not_, _marked(params, frozen))

    return optax.chain(
        optax.masked(optimizer, is_trained),
        optax.masked(optax.set_to_zero(), is_frozen),
    )


def _places(variables: PyTree, mask: PyTree[bool]) -> list[set[Path]]:
    """Returns the paths of each marked parameter.

    One, unless the variable of an NNX module is shared; its state has the first alone.
    """
    has_params = isinstance(variables, Mapping) and "params" in variables
    marked = leaves(mask)
    places: dict[object, set[Path]] = {}
    for path, leaf in leaves(variables["params"] if has_params else variables).items():
        if marked[path]:  # one array in two places is two parameters
            places.setdefault(id(leaf) if is_box(leaf) else path, set()).add(path)
    return [*places.values()]


def _marked(params: PyTree, frozen: list[set[Path]]) -> PyTree[bool]:
    """Marks what is frozen in the parameters as the optimizer has them.

    By path, since their containers may be others than those of the variables.
    """
    import optax

    def is_leaf(node: object) -> bool:  # what another mask has taken out is one too
        return is_box(node) or isinstance(node, optax.MaskedNode)

    flat, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_leaf)
    paths = [keys(path) for path, _ in flat]
    if missing := [places for places in frozen if places.isdisjoint(paths)]:
        first = min((path for places in missing for path in places), key=str)
        raise ValueError(
            f"The parameters to train must include {first}, which is to be frozen, "
            f"got {paths}. Pass freeze_parameters the variables of the same model."
        )
    marked = set().union(*frozen)
    return jax.tree.unflatten(structure, [path in marked for path in paths])
