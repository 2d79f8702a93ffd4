"""Optimizers that do not change the parameters of normalizers."""

import operator
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import jax
from jaxtyping import PyTree

from jaxnorm._core.arrays.boxes import is_box
from jaxnorm.tools._trees import Path, keys, leaves
from jaxnorm.tools.normalization_mask import normalization_mask

if TYPE_CHECKING:
    import optax

_FIX = (
    'Pass {"params": ..., "batch_stats": ...}, or an NNX or Equinox model itself, '
    "because batch norms are recognized by their statistics."
)


def check_optimizer(optimizer: object) -> None:
    """Checks that `optimizer` is an optax transformation, not for instance NNX's.

    Raises:
      TypeError: If it is not an optax transformation.
    """
    import optax

    if not isinstance(optimizer, optax.GradientTransformation):
        fix = ""
        if hasattr(optimizer, "gradient_transformation"):  # optax.MultiSteps
            fix = " Pass its optimizer.gradient_transformation()."
        raise TypeError(
            "optimizer must be an optax gradient transformation, such as "
            f"optax.adamw(1e-3), got {type(optimizer).__name__}.{fix}"
        )


def freeze_parameters(
    optimizer: "optax.GradientTransformation",
    variables: PyTree,
    *,
    norms: Collection[Path] = (),
    only_with_statistics: bool = True,
) -> "optax.GradientTransformation":
    """Returns an optimizer that never changes the parameters of batch norms.

    Use it for fine-tuning. Weight decay and momentum do not change these parameters
    either, because the optimizer does not see them: it keeps no state for them and does
    not include them in global norms. This does not freeze the running statistics: for
    these see `jaxnorm.linen.frozen_statistics`, and for both
    `jaxnorm.linen.freeze_batch_norms`.

    Args:
      optimizer: Any optax optimizer whose update needs no other trees or functions of
        the parameters. (`optax.lbfgs` does; with linesearch=None it does not.)
      variables: Variables of a Linen model, {"params": ..., "batch_stats": ...}; or an
        NNX module, its state or the pure dict of its state; or an Equinox model. Batch
        norms are recognized by their statistics, and found in the trained parameters by
        their paths.
      norms: Paths of other nodes to freeze, as for `normalization_mask`.
      only_with_statistics: Whether to freeze only batch normalizers, which have running
        statistics, or all normalizers.

    Raises:
      TypeError: If `optimizer` is not an optax transformation, or `variables` is a list
        or a tuple.
      ValueError: If there is nothing to freeze. The new optimizer raises it too, if the
        parameters to train lack a parameter to freeze.

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
            "variables must be the variables of one model, got a "
            f"{type(variables).__name__}. {_FIX}"
        )
    mask = normalization_mask(
        variables, norms=norms, only_with_statistics=only_with_statistics
    )
    frozen = _paths_of_marked(variables, mask)
    if not frozen:
        raise ValueError(
            "variables must have normalizers to freeze, got none"
            + (" with running statistics" if only_with_statistics else "")
            + f". {_FIX} Or list paths in norms."
        )

    def is_frozen(params: PyTree) -> PyTree[bool]:
        return _frozen_mask(params, frozen)

    def is_trained(params: PyTree) -> PyTree[bool]:
        return jax.tree.map(operator.not_, _frozen_mask(params, frozen))

    return optax.chain(
        optax.masked(optimizer, is_trained),
        optax.masked(optax.set_to_zero(), is_frozen),
    )


def _paths_of_marked(variables: PyTree, mask: PyTree[bool]) -> list[set[Path]]:
    """Returns the set of paths of each marked parameter.

    A variable that an NNX module shares has several paths; the state of the module
    contains only the first.
    """
    has_params = isinstance(variables, Mapping) and "params" in variables
    marked = leaves(mask)
    places: dict[object, set[Path]] = {}
    for path, leaf in leaves(variables["params"] if has_params else variables).items():
        if marked[path]:  # one array in two places is two parameters
            places.setdefault(id(leaf) if is_box(leaf) else path, set()).add(path)
    return [*places.values()]


def _frozen_mask(params: PyTree, frozen: list[set[Path]]) -> PyTree[bool]:
    """Marks the frozen parameters in the tree that the optimizer trains.

    They are found by path, because the containers may differ from those of the
    variables.
    """
    import optax

    def is_leaf(node: object) -> bool:  # another mask may have left MaskedNodes
        return is_box(node) or isinstance(node, optax.MaskedNode)

    flat, structure = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_leaf)
    paths = [keys(path) for path, _ in flat]
    if missing := [places for places in frozen if places.isdisjoint(paths)]:
        first = min((path for places in missing for path in places), key=str)
        raise ValueError(
            f"The parameters to train must include {first}, a parameter to freeze, got "
            f"{paths}. Pass the variables of the same model to freeze_parameters."
        )
    marked = set().union(*frozen)
    return jax.tree.unflatten(structure, [path in marked for path in paths])
