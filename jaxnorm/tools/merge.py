"""Exact merging of the running statistics of replicas."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arguments.validation import check_scalar, shown
from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm._core.moments.total_variance import mean_square_about
from jaxnorm._core.reductions.collectives import MappedAxes
from jaxnorm.tools.statistics import (
    Layer,
    Tree,
    check_collections,
    map_layers,
    path_text,
)


def merge_batch_stats(
    trees: Sequence[Tree] | Tree,
    *,
    counts: Sequence[ArrayLike] | ArrayLike | None = None,
    axis_name: str | Sequence[str] | None = None,
) -> dict[Any, Any]:
    """Merges the running statistics of models that were trained separately.

    The merge follows the law of total variance, with weights
    w_i = counts_i / sum(counts)::

        mean = sum(w_i mean_i)
        var  = sum(w_i (var_i + |mean_i - mean|^2))

    An average of the variances would lack the variance between the replicas. The `std`
    of batch renorm is squared, merged like a variance, and its root taken. All other
    values of a layer, such as the number of its updates, are averaged with the same
    weights.

    Args:
      trees: The collections `batch_stats`, one per replica; with `axis_name`, only the
        collection of this replica.
      counts: The amount of data that each replica has seen: one number per tree, in a
        sequence or array; with `axis_name`, the number of this replica. Each must be at
        least 0, and not all 0; equal by default. Statistics with count 0 are ignored,
        whatever their values. Traced counts cannot be checked: if one is negative or
        NaN, or all are 0, all merged statistics are NaN.
      axis_name: Mapped axis or axes (of `jax.pmap`, `jax.shard_map`, `jax.vmap`) of the
        replicas.

    Returns:
      The merged statistics, with the structure and dtypes of the trees; the same on all
      replicas.

    Raises:
      NameError: If `axis_name` is not bound.
      TypeError: If a count is not a real number, or `trees` is not a sequence of dicts.
      ValueError: If the trees differ, a tree has parameters, which are not merged, the
        number of counts is wrong, a count is negative or not finite, all are 0, or a
        layer keeps a variance without its mean (EvoNorm B0), which cannot be merged
        exactly.

    Reference:
      Chan, Golub and LeVeque, 1979, Updating formulae and a pairwise algorithm for
      computing sample variances, section 2.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.tools
      >>> one = {"norm": {"mean": jnp.array([0.0]), "var": jnp.array([1.0])}}
      >>> other = {"norm": {"mean": jnp.array([4.0]), "var": jnp.array([1.0])}}
      >>> jaxnorm.tools.merge_batch_stats([one, other], counts=[3, 1])
      {'norm': {'mean': Array([1.], dtype=float32), 'var': Array([4.], dtype=float32)}}
    """
    if isinstance(trees, Mapping):
        if axis_name is None:
            raise ValueError(
                "trees must be a sequence of collections, got one collection. Pass "
                "axis_name inside jax.pmap or jax.shard_map, or a list elsewhere."
            )
        trees, counts = [trees], None if counts is None else [cast(ArrayLike, counts)]
    check_collections(trees, "batch_stats")
    weights = _weights(counts, len(trees), alone=axis_name is None)

    def merge(path: tuple[Any, ...], *layers: Tree) -> Layer:
        if any(set(layer) != set(layers[0]) for layer in layers):
            raise ValueError(
                f"{path_text(path)} must keep the same statistics in all trees, got "
                f"{sorted({tuple(sorted(layer)) for layer in layers})}. Pass trees of "
                "the same model."
            )
        if {"var", "std"} & set(layers[0]) and "mean" not in layers[0]:
            raise ValueError(
                f"{path_text(path)} must keep a mean with its variance, got a variance "
                "without its mean. The merged variance depends on the distances of the "
                "means. Use jaxnorm.tools.recalibrate with data instead."
            )
        stacked = {
            name: jnp.stack([jnp.asarray(layer[name]) for layer in layers])
            for name in layers[0]
        }
        return _merge(stacked, weights, axis_name)

    return map_layers(merge, trees[0], *trees[1:])


def _weights(counts: Any, number: int, *, alone: bool) -> Array:
    """Returns the counts as one array, with NaN for invalid traced counts.

    Args:
      counts: The argument that the user passed.
      number: The number of trees.
      alone: Whether there are no trees on other replicas.
    """
    if counts is None:
        return jnp.ones(number, jnp.float32)
    if isinstance(counts, np.ndarray | Array) and counts.ndim == 1:
        counts = [*counts]
    if not isinstance(counts, Sequence) or len(counts) != number:
        listed = isinstance(counts, Sequence) and not isinstance(counts, str)
        given = len(counts) if listed else f"{shown(counts)}, not a list"
        raise ValueError(
            f"counts must hold one number for each of the {number} trees, got {given}. "
            "For equal weights, omit counts."
        )
    # While tracing, jnp.asarray would hide the values of counts that are not traced.
    counts = [check_scalar(count, "each of counts") for count in counts]
    traced = [isinstance(count, jax.core.Tracer) for count in counts]
    known = [float(c) for c, t in zip(counts, traced, strict=True) if not t]
    nothing = alone and not any(traced) and not any(known)
    if nothing or not all(0 <= count < float("inf") for count in known):
        raise ValueError(
            "counts must be finite, at least 0 and not all 0, got "
            f"{', '.join(map(str, known))}. For equal weights, omit counts."
        )
    weights = jnp.stack([jnp.asarray(count, jnp.float32) for count in counts])
    return jnp.where(weights >= 0, weights, jnp.nan)


def _merge(
    stacked: Layer, weights: Array, axis_name: str | Sequence[str] | None
) -> Layer:
    """Merges the statistics of one layer, which are stacked along a leading axis."""
    mapped_axes = MappedAxes.parse(axis_name, None, next(iter(stacked.values())))

    def mean_of(values: Array) -> Array:
        shares = weights.reshape(-1, *(1,) * (values.ndim - 1)).astype(values.dtype)
        total, share = mapped_axes.sum((jnp.sum(shares * values, 0), jnp.sum(weights)))
        return total / share.astype(total.dtype)

    def zero_where_unused(values: Array) -> Array:
        # A select, not a product: statistics without data may be NaN or infinite.
        seen = (weights > 0).reshape(-1, *(1,) * (values.ndim - 1))
        values = values.astype(accumulation_dtype(values.dtype))
        return jnp.where(seen, values, jnp.zeros_like(values))

    wide = {name: zero_where_unused(values) for name, values in stacked.items()}
    merged = {name: mean_of(values) for name, values in wide.items()}
    for name, power in (("var", 1), ("std", 2)):
        if name in wide:
            difference = wide["mean"] - merged["mean"][None]
            within = wide[name] ** power
            var = mean_of(mean_square_about(within, difference))
            merged[name] = var ** (1 / power)
    return {name: value.astype(stacked[name].dtype) for name, value in merged.items()}
