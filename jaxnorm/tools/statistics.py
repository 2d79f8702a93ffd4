"""Trees of statistics: how their layers are found and moved towards moments."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.moments import Moments, merge_moments
from jaxnorm._core.running import Schedule, resolve_momentum, update_running
from jaxnorm._core.sharding import where
from jaxnorm._core.validation import check_epsilon, check_flags
from jaxnorm.tools.trees import children, is_node, with_children

Tree = Mapping[Any, Any]
"""Nested dicts of arrays, as Flax's collections are; within, lists of such as well."""

Layer = dict[str, Array]
"""The arrays of one layer."""

_STATISTICS = {"mean", "var", "std"}
_MOMENTS = "batch_moments"  # within a layer, what holds those of its input


def map_layers(
    change: Callable[..., Layer], tree: Tree, *others: Tree
) -> dict[Any, Any]:
    """Returns a tree of statistics with those of each layer changed.

    A layer is a node that holds an array `mean`, `var` or `std`, by itself or in a dict
    `batch_moments`. All else stays.

    Args:
      change: Is given the path of a layer, its arrays, and what the others hold at that
        path; returns the arrays that take their place.
      tree: The tree.
      *others: Trees in which each layer has its like.

    Raises:
      ValueError: If another tree lacks a layer, or has one of another shape.
    """
    mapped: dict[Any, Any] = _map_layers_at((), change, tree, *others)
    return mapped


def _map_layers_at(
    path: tuple[Any, ...], change: Callable[..., Layer], tree: Any, *others: Any
) -> Any:
    """Does what `map_layers` does at a path, where a node may be a list."""
    own = children(tree)
    theirs = [children(children(other).get(_MOMENTS, other)) for other in others]
    arrays = {k: jnp.asarray(part) for k, part in own.items() if not is_node(part)}
    if _STATISTICS & set(arrays):
        _check_shapes(path, arrays, *theirs)
        arrays = change(path, arrays, *theirs)
    parts = {}
    for name, part in own.items():
        if name == _MOMENTS:
            parts[name] = _map_layers_at(path, change, part, *theirs)
        elif is_node(part):
            below = [_below(other, name, path, part) for other in theirs]
            parts[name] = _map_layers_at((*path, name), change, part, *below)
    return with_children(tree, {**arrays, **parts})


def layers(tree: Any) -> dict[tuple[Any, ...], Layer]:
    """Returns the arrays of each layer of a tree of statistics, by path."""
    found: dict[tuple[Any, ...], Layer] = {}

    def note(path: tuple[Any, ...], layer: Layer) -> Layer:
        found[path] = layer
        return layer

    _map_layers_at((), note, tree)
    return found


def batch_stats_of(variables: Tree) -> Tree:
    """Returns the collection `batch_stats` of a model's variables.

    Raises:
      TypeError: If the variables are no dict.
      ValueError: If there is none, or no layer in it has statistics.
    """
    if not isinstance(variables, Mapping):
        fix = (
            '{"params": state.params, "batch_stats": state.batch_stats}'
            if hasattr(variables, "params")
            else "what jaxnorm.nnx.collecting(model) returns, if it is an NNX model"
        )
        raise TypeError(
            "variables must be a dict of collections, got "
            f"{type(variables).__name__}. Pass {fix}."
        )
    found: Tree = variables.get("batch_stats", {})
    if not layers(found):
        raise ValueError(
            'variables must hold running statistics under "batch_stats", and hold none '
            f"(the keys are {list(variables)}). Pass those of the whole model, "
            '{"params": ..., "batch_stats": ...}; of an NNX model, those that '
            "jaxnorm.nnx.collecting(model) returns. Group, layer and other norms of "
            "each example keep no running statistics."
        )
    return found


def named(path: tuple[object, ...]) -> str:
    """Returns a path as a text; names are strings, or the integers of a list."""
    return "/".join(map(str, path)) or "the layer"


def merge_batch_moments(trees: Sequence[Tree]) -> dict[Any, Any]:
    """Merges collections `batch_moments` of several batches, layer by layer.

    Exactly, as `jaxnorm.merge_moments` does, whatever the sizes of the batches.

    Args:
      trees: At least one collection; all of the same structure.

    Returns:
      The moments of all batches together.

    Raises:
      ValueError: If there is none, or they differ in structure or shapes.

    Example:
      >>> import jax.numpy as jnp, jaxnorm, jaxnorm.tools
      >>> x = jnp.array([[1.0], [3.0], [8.0]])
      >>> parts = [
      ...     {"norm": jaxnorm.batch_moments(part)._asdict()} for part in (x[:2], x[2:])
      ... ]
      >>> jaxnorm.tools.merge_batch_moments(parts)["norm"]["mean"]
      Array([4.], dtype=float32)
    """
    if not trees:
        raise ValueError("trees must hold at least one collection, got none.")
    merged = trees[0]
    for tree in trees[1:]:
        merged = map_layers(
            lambda path, mine, theirs: merge_moments(
                _as_moments(mine, path), _as_moments(theirs, path)
            )._asdict(),
            merged,
            tree,
        )
    return dict(merged)


def update_batch_stats(
    batch_stats: Tree,
    batch_moments: Tree,
    *,
    momentum: ArrayLike | Schedule = 0.99,
    unbiased: bool = False,
    epsilon: float = 1e-5,
) -> dict[Any, Any]:
    """Moves the running statistics of a whole model towards collected moments.

    One update, as `jaxnorm.update_batch_stats` makes it, for each layer::

        mean = momentum * mean + (1 - momentum) * moments.mean
        var  = momentum * var  + (1 - momentum) * moments.var
        std  = momentum * std  + (1 - momentum) * sqrt(moments.var + epsilon)

    Args:
      batch_stats: Running statistics: nested dicts in which a layer has `mean`, `var`
        (or, of batch renorm, `std`) and perhaps `count`, the number of its updates.
      batch_moments: The collection of that name, of the same layers.
      momentum: Weight of the old values, in [0, 1]; 0: the moments take their place. A
        number, a traced scalar, or a function of `count`.
      unbiased: Whether the variance is multiplied by n / (n - 1).
      epsilon: Of the layers of batch renorm, whose `std` includes it.

    Returns:
      New statistics of the same structure and dtypes. No gradient flows into them.

    Raises:
      TypeError: If momentum is a function and a layer does not count.
      ValueError: If a layer has no moments, or momentum is outside [0, 1].

    Reference:
      Ioffe and Szegedy, 2015, Batch Normalization, section 3.1
      (https://arxiv.org/abs/1502.03167).

    Example:
      >>> import jax.numpy as jnp, jaxnorm, jaxnorm.tools
      >>> stats = {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}
      >>> moments = jaxnorm.batch_moments(jnp.array([[1.0], [3.0]]))
      >>> jaxnorm.tools.update_batch_stats(
      ...     stats, {"norm": moments._asdict()}, momentum=0.5
      ... )
      {'norm': {'mean': Array([1.], dtype=float32), 'var': Array([1.], dtype=float32)}}
    """
    check_flags(unbiased=unbiased)
    epsilon = check_epsilon(epsilon)

    def update(layer: Layer, moments: Moments) -> Layer:
        if "count" in layer and layer["count"].ndim:  # one set of each time step
            return jax.vmap(update)(layer, moments)
        new = update_running(
            layer,
            moments,
            weight=resolve_momentum(momentum, layer),
            unbiased=unbiased,
            epsilon=epsilon,
        )
        # Of a stream, what was to be added to the old values is not to the new ones.
        seen = moments.count > 0
        rests = {f"{name}_rest" for name in _STATISTICS & layer.keys()} & layer.keys()
        zeros = {
            name: where(seen, jnp.zeros_like(layer[name]), layer[name])
            for name in rests
        }
        return new | zeros

    return map_layers(
        lambda path, layer, moments: update(layer, _as_moments(moments, path)),
        batch_stats,
        batch_moments,
    )


def _check_shapes(path: tuple[Any, ...], *layers: Tree) -> None:
    for name in sorted(_STATISTICS):
        shapes = [jnp.shape(layer[name]) for layer in layers if name in layer]
        if len(set(shapes)) > 1:
            raise ValueError(
                f"{name} of {named(path)} must have one shape in all trees, got "
                f"{' and '.join(map(str, dict.fromkeys(shapes)))}. Are they of the "
                "same model?"
            )


def _below(other: Tree, name: Any, path: tuple[Any, ...], part: Any) -> Any:
    found = other.get(name, {})
    if not found and (lacking := layers(part)):
        raise ValueError(
            f"{named((*path, name, *next(iter(lacking))))} has statistics in one "
            "tree and none in the other. Are both of the same model, and is each of "
            "its layers one of jaxnorm's, called in every pass?"
        )
    return found


def _as_moments(layer: Tree, path: tuple[Any, ...]) -> Moments:
    if missing := set(Moments._fields) - set(layer):
        raise ValueError(
            f"{named(path)} must have the moments count, mean and "
            f"var, but {', '.join(sorted(missing))} is missing. Pass a collection "
            "batch_moments."
        )
    return Moments(*(jnp.asarray(layer[name]) for name in Moments._fields))
