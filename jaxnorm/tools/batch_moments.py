"""Merging of collected moments, and updates of running statistics from them."""

from collections.abc import Sequence
from typing import Any

import jax
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arguments.validation import check_epsilon, check_flags
from jaxnorm._core.arrays.sharding import where
from jaxnorm._core.moments.moments import Moments, merge_moments
from jaxnorm._core.running.momentum import Schedule, resolve_momentum
from jaxnorm._core.running.update_running import average, update_running
from jaxnorm.tools.statistics import (
    STATISTICS,
    Layer,
    Tree,
    check_collection,
    check_collections,
    map_layers,
    path_text,
)


def merge_batch_moments(trees: Sequence[Tree]) -> dict[Any, Any]:
    """Merges the collections `batch_moments` of several batches, layer by layer.

    The result is exact, as in `jaxnorm.merge_moments`, whatever the sizes of the
    batches.

    Args:
      trees: At least one collection; all of the same structure.

    Returns:
      The moments of all batches together.

    Raises:
      TypeError: If `trees` is not a sequence of dicts, but for instance one collection.
      ValueError: If `trees` is empty, a collection has parameters, or the collections
        differ in structure or shapes.

    Example:
      >>> import jax.numpy as jnp, jaxnorm, jaxnorm.tools
      >>> x = jnp.array([[1.0], [3.0], [8.0]])
      >>> parts = [
      ...     {"norm": jaxnorm.batch_moments(part)._asdict()} for part in (x[:2], x[2:])
      ... ]
      >>> jaxnorm.tools.merge_batch_moments(parts)["norm"]["mean"]
      Array([4.], dtype=float32)
    """
    check_collections(trees, "batch_moments")
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


def apply_batch_moments(
    batch_stats: Tree,
    batch_moments: Tree,
    *,
    momentum: ArrayLike | Schedule = 0.99,
    unbiased: bool = False,
    epsilon: float = 1e-5,
) -> dict[Any, Any]:
    """Updates the running statistics of a whole model with collected moments.

    Each layer gets one update, as by `jaxnorm.update_batch_stats`::

        mean = momentum * mean + (1 - momentum) * moments.mean
        var  = momentum * var  + (1 - momentum) * moments.var
        std  = momentum * std  + (1 - momentum) * sqrt(moments.var + epsilon)

    The element count of a `RunningNorm` layer is averaged in the same way with the
    count of the moments.

    Args:
      batch_stats: Running statistics: nested dicts in which a layer has `mean`, `var`
        (`std` in batch renorm) and possibly `count`, the number of its updates.
      batch_moments: The collection of that name, of the same layers.
      momentum: Weight of the old values, in [0, 1]; with 0, the moments replace them. A
        number, a traced scalar, or a function of `count`.
      unbiased: Whether the variance is multiplied by n / (n - 1).
      epsilon: Epsilon of batch renorm layers, whose `std` includes it.

    Returns:
      New statistics of the same structure and dtypes. No gradient flows into them.

    Raises:
      TypeError: If momentum is a function and a layer keeps no `count`, or a collection
        is not a dict.
      ValueError: If a layer has no moments, a collection has parameters, or momentum is
        outside [0, 1].

    Reference:
      Ioffe and Szegedy, 2015, Batch Normalization, section 3.1
      (https://arxiv.org/abs/1502.03167).

    Example:
      >>> import jax.numpy as jnp, jaxnorm, jaxnorm.tools
      >>> stats = {"norm": {"mean": jnp.zeros(1), "var": jnp.ones(1)}}
      >>> moments = jaxnorm.batch_moments(jnp.array([[1.0], [3.0]]))
      >>> jaxnorm.tools.apply_batch_moments(
      ...     stats, {"norm": moments._asdict()}, momentum=0.5
      ... )
      {'norm': {'mean': Array([1.], dtype=float32), 'var': Array([1.], dtype=float32)}}
    """
    check_flags(unbiased=unbiased)
    epsilon = check_epsilon(epsilon)
    check_collection(batch_stats, "batch_stats")
    check_collection(batch_moments, "batch_moments", "batch_moments")

    def update(layer: Layer, moments: Moments) -> Layer:
        if "count" in layer and layer["count"].ndim:  # statistics per time step
            return jax.vmap(update)(layer, moments)
        weight = resolve_momentum(momentum, layer)
        new = update_running(
            layer, moments, weight=weight, unbiased=unbiased, epsilon=epsilon
        )
        if "count_rest" not in layer:
            return new
        # Running moments count elements. Their rests, the low-order parts of the old
        # values, do not belong to the new values.
        nonempty = moments.count > 0
        new["count"] = average(
            layer["count"], moments.count, weight=weight, nonempty=nonempty
        )
        rests = {f"{name}_rest" for name in STATISTICS | {"count"}} & layer.keys()
        zeros = {
            name: where(nonempty, jnp.zeros_like(layer[name]), layer[name])
            for name in rests
        }
        return new | zeros

    return map_layers(
        lambda path, layer, moments: update(layer, _as_moments(moments, path)),
        batch_stats,
        batch_moments,
    )


def _as_moments(layer: Tree, path: tuple[Any, ...]) -> Moments:
    """Returns the arrays of a layer as `Moments`.

    Raises:
      ValueError: If one is missing.
    """
    if missing := set(Moments._fields) - set(layer):
        raise ValueError(
            f"{path_text(path)} must have the moments count, mean and "
            f"var, but lacks {', '.join(sorted(missing))}. Pass a collection "
            "batch_moments."
        )
    return Moments(*(jnp.asarray(layer[name]) for name in Moments._fields))
