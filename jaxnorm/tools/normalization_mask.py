"""Which parameters are those of normalizers, as a mask for optimizers."""

from collections.abc import Collection, Mapping

import jax
from jaxtyping import PyTree

from jaxnorm._layers.names import parameter_names
from jaxnorm.tools._trees import Path, as_paths, is_box, keys, leaves, nodes

# Layers of other kinds have these too: they tell nothing alone.
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
    """Marks the parameters of normalizers, for `optax.masked` and its like.

    Weight decay is not meant for them, for one::

        others = jax.tree.map(operator.not_, normalization_mask(variables))
        optimizer = optax.adamw(1e-3, mask=others)

    What a normalizer is, is told by structure, in models of any classes:

    * a node that has running statistics (mean, var or std at the same path in another
      collection, or in the same node) and parameters that are named like those of a
      normalizer: scale, bias, gate, mean_scale, mean_logits, var_logits, threshold,
      learned_epsilon, alpha, beta, shift, v;
    * a node whose parameters all have such names, and not only some of these: bias,
      alpha, beta, shift, v;
    * a scale or gain of a weight: Dense_0/kernel/scale of `WeightNorm`.

    So the bias of a dense layer, which stands beside a kernel, is not one. What has
    neither statistics nor a telling name cannot be told: name a layer norm with a bias
    alone, or one of your own classes, in `norms`. A layer of another kind whose only
    parameter is called scale is taken for a normalizer.

    Args:
      variables: A Linen model's, {"params": ..., "batch_stats": ...}, or its `params`
        alone (then a batch norm with a bias alone cannot be told); or an NNX model's,
        as a pure dict or `nnx.state(model, nnx.Param)`. To have the structure that
        `nnx.Optimizer` works on, and the statistics too, pass
        {"params": nnx.state(model, nnx.Param),
        "batch_stats": nnx.state(model, nnx.BatchStat)}.
      norms: Paths of nodes whose parameters are normalizers', whatever their names;
        without the collection: ("block", "LayerNorm_0").
      only_with_statistics: Whether to mark batch normalizers only, of whatever kind:
        those with running statistics (and what `norms` says).

    Returns:
      Python booleans in the structure of `variables["params"]`, which optax sees, or of
      `variables` if it has no "params"; what is in a box of Flax has its boolean in
      place of the box.

    Raises:
      TypeError: If `variables` is not a tree, or a path of `norms` is not a tuple.
      ValueError: If no parameter is at or below a path of `norms`.

    Example:
      >>> import jax.numpy as jnp
      >>> from jaxnorm.tools import normalization_mask
      >>> params = {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}
      >>> normalization_mask(params | {"LayerNorm_0": {"scale": jnp.ones(3)}})
      {'Dense_0': {'bias': False, 'kernel': False}, 'LayerNorm_0': {'scale': True}}
    """
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
            "variables must be nested dicts of arrays, or what else JAX knows as a "
            f"tree, got {type(params).__name__}. Of an NNX model pass nnx.state(model)."
        )
    named = as_paths(norms, "norms")
    for path in named:
        if not any(node[: len(path)] == path for node in found):
            raise ValueError(
                f"norms must be paths of nodes with parameters, got {path}, where "
                f"there is none. There are {sorted(found, key=str)}."
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
        telling = not own <= _COMMON and not only_with_statistics
        return node in measured or telling

    return jax.tree_util.tree_map_with_path(
        lambda path, _: is_normalization(keys(path)), params, is_leaf=is_box
    )
