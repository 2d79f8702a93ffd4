"""A mask for optimizers that marks the parameters of normalizers."""

from collections.abc import Collection, Mapping

import jax
from jaxtyping import PyTree

from jaxnorm._core.arrays.boxes import has_attribute, is_box
from jaxnorm._layers.names import parameter_names
from jaxnorm.tools._trees import (
    Path,
    as_paths,
    is_train_state,
    keys,
    leaves,
    nodes,
)

# Other layers have parameters of these names too, so they do not identify a normalizer.
_COMMON = {"bias", "alpha", "beta", "shift", "v"}
_NAMES = parameter_names()
_STATISTICS = {"mean", "var", "std"}
_OF_WEIGHTS = ("/scale", "/gain")


def normalization_mask(
    variables: PyTree,
    *,
    norms: Collection[Path] = (),
    only_with_statistics: bool = False,
) -> PyTree[bool]:
    """Marks the parameters of normalizers, for `optax.masked` and similar functions.

    Use it to exclude normalizers from weight decay, for instance::

        others = jax.tree.map(operator.not_, normalization_mask(variables))
        optimizer = optax.adamw(1e-3, mask=others)

    A normalizer is recognized by its structure, whatever the class of the module:

    * a node with running statistics (mean, var or std at the same path in another
      collection, or in the same node; or a module of `jaxnorm.equinox` that keeps them
      in an `equinox.nn.State`), whose parameters all have names that normalizers use:
      scale, bias, gate, mean_scale, mean_logits, var_logits, threshold,
      learned_epsilon, alpha, beta, shift, v;
    * a node without running statistics, whose parameters all have such names, at least
      one of them other than bias, alpha, beta, shift and v;
    * the scale or gain of a weight: Dense_0/kernel/scale of `WeightNorm`.

    So the bias of a dense layer, next to a kernel, is not marked. A normalizer without
    statistics and without a distinctive name cannot be recognized: list a layer norm
    that has only a bias, or a class of your own, in `norms`; also the norms of
    `equinox.nn`, whose scale is called weight, as in its other layers. Any other layer
    whose only parameter is called scale is mistaken for a normalizer.

    Args:
      variables: Variables of a Linen model, {"params": ..., "batch_stats": ...}, or
        only its `params` (then a batch norm that has only a bias is not recognized); or
        of an NNX model, as a pure dict or `nnx.state(model, nnx.Param)`. To get the
        structure that `nnx.Optimizer` works on, with the statistics, pass
        {"params": nnx.state(model, nnx.Param),
        "batch_stats": nnx.state(model, nnx.BatchStat)}. Or an Equinox model, which may
        be filtered: `eqx.filter(model, eqx.is_inexact_array)`.
      norms: Paths of nodes to mark as normalizers, whatever the names of their
        parameters; without the collection: ("block", "LayerNorm_0").
      only_with_statistics: Whether to mark only normalizers with running statistics,
        and the nodes in `norms`.

    Returns:
      Python booleans in the structure of `variables["params"]`, as optax expects it, or
      of `variables` if it has no "params". A boolean replaces each Flax box.

    Raises:
      TypeError: If `variables` is not a tree or is a TrainState, or a path of `norms`
        is not a tuple.
      ValueError: If `variables` has statistics and no parameters;
        `only_with_statistics` is True and there are neither statistics nor `norms`, for
        instance because `variables` are only the parameters; or no parameter is at or
        below a path of `norms`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxnorm.tools import normalization_mask
      >>> params = {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}
      >>> normalization_mask(params | {"LayerNorm_0": {"scale": jnp.ones(3)}})
      {'Dense_0': {'bias': False, 'kernel': False}, 'LayerNorm_0': {'scale': True}}
    """
    if is_train_state(variables):
        raise TypeError(
            f"variables must be a tree of variables, got {type(variables).__name__}. "
            'Pass {"params": state.params, "batch_stats": state.batch_stats}.'
        )
    params, others = variables, [variables]
    no_parameters = _STATISTICS | {"count"}
    if isinstance(variables, Mapping) and "params" in variables:
        params = variables["params"]
        others = [tree for name, tree in variables.items() if name != "params"]
        no_parameters = set()
    measured = {
        path
        for tree in others
        for path, node in nodes(leaves(tree)).items()
        if not _STATISTICS.isdisjoint(node)
    }
    found = nodes(leaves(params))
    if not found and jax.tree.leaves(params):
        raise TypeError(
            "variables must be nested dicts of arrays, or another pytree, got "
            f"{type(params).__name__}. For an NNX model, pass nnx.state(model)."
        )
    named = as_paths(norms, "norms")
    if measured and not any(node.keys() - no_parameters for node in found.values()):
        raise ValueError(
            "variables must have parameters, got only statistics. Pass "
            '{"params": ..., "batch_stats": ...}.'
        )
    measured |= _nodes_of_equinox(params)
    if only_with_statistics and not measured and not named:
        raise ValueError(
            "variables must have batch norms for only_with_statistics=True, got none "
            'with running statistics. Pass {"params": ..., "batch_stats": ...}, or '
            "an NNX or Equinox model itself. Or list the paths of the batch norms in "
            "norms."
        )
    for path in named:
        if not any(node[: len(path)] == path for node in found):
            raise ValueError(
                f"norms must be paths of nodes with parameters, got {path} without "
                f"parameters. The nodes with parameters are {sorted(found, key=str)}."
            )

    def is_normalization(path: Path) -> bool:
        node, name = path[:-1], str(path[-1])
        if any(node[: len(prefix)] == prefix for prefix in named):
            return True
        if name.endswith(_OF_WEIGHTS):
            return not only_with_statistics
        own = found[node].keys() - no_parameters
        if name not in own or not own <= _NAMES:
            return False
        distinctive = not own <= _COMMON and not only_with_statistics
        return node in measured or distinctive

    return jax.tree_util.tree_map_with_path(
        lambda path, _: is_normalization(keys(path)), params, is_leaf=is_box
    )


def _nodes_of_equinox(params: PyTree) -> set[Path]:
    """Returns the nodes with the parameters of Equinox modules with running statistics.

    Such a module has the index of its statistics in an `equinox.nn.State`, under the
    name stats, and its parameters in a dict.
    """

    def is_module(node: object) -> bool:
        return has_attribute(node, "params") and has_attribute(
            getattr(node, "stats", None), "marker"
        )

    flat, _ = jax.tree_util.tree_flatten_with_path(
        params, is_leaf=lambda node: is_box(node) or is_module(node)
    )
    return {(*keys(path), "params") for path, node in flat if is_module(node)}
