"""Collected moments of a model's layers: merged, and brought into its statistics."""

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
from jaxnorm.tools.statistics import STATISTICS, Layer, Tree, map_layers, path_text


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


def apply_batch_moments(
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

    The number of elements that `RunningNorm` has seen moves likewise, towards that of
    the moments.

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
      >>> jaxnorm.tools.apply_batch_moments(
      ...     stats, {"norm": moments._asdict()}, momentum=0.5
      ... )
      {'norm': {'mean': Array([1.], dtype=float32), 'var': Array([1.], dtype=float32)}}
    """
    check_flags(unbiased=unbiased)
    epsilon = check_epsilon(epsilon)

    def update(layer: Layer, moments: Moments) -> Layer:
        if "count" in layer and layer["count"].ndim:  # one set of each time step
            return jax.vmap(update)(layer, moments)
        weight = resolve_momentum(momentum, layer)
        new = update_running(
            layer, moments, weight=weight, unbiased=unbiased, epsilon=epsilon
        )
        if "count_rest" not in layer:
            return new
        # A stream counts elements, and what was to be added to the old values is not to
        # the new ones.
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
    if missing := set(Moments._fields) - set(layer):
        raise ValueError(
            f"{path_text(path)} must have the moments count, mean and "
            f"var, but {', '.join(sorted(missing))} is missing. Pass a collection "
            "batch_moments."
        )
    return Moments(*(jnp.asarray(layer[name]) for name in Moments._fields))
