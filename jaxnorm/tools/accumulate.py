"""The gradients of a full batch, with its statistics, from micro-batches."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arguments.validation import check_integer
from jaxnorm.tools._trees import node_at
from jaxnorm.tools.batch_moments import apply_batch_moments, merge_batch_moments
from jaxnorm.tools.statistics import Tree, layers, map_layers

Params = TypeVar("Params")
Batch = TypeVar("Batch")


def full_batch_value_and_grad(
    loss: Callable[[Params, Tree, Batch], tuple[Array, Tree]],
    *,
    depth: int,
    epsilon: float = 1e-5,
) -> Callable[[Params, Tree, Batch], tuple[Array, Params, dict[Any, Any]]]:
    """Returns a function that computes what one step on the full batch would.

    Micro-batches that are simply accumulated are normalized each by itself. Here each
    is normalized with the statistics of all of them together, and gradients flow
    through these statistics, as if the batch had never been split. The micro-batches
    are gone through one after another.

    With statistics s, losses l_i and the moments of all micro-batches M(params, s)::

        s      = M(params, s)                                  depth + 1 passes
        lambda = d/ds sum_i l_i + (dM/ds)^T lambda             depth passes
        grad   = d/dparams sum_i l_i + (dM/dparams)^T lambda   one pass with the last

    Each layer's statistics depend on those of the layers before it alone, so that
    `depth` passes reach the exact solution of both equations.

    Args:
      loss: A function of parameters, statistics and one micro-batch that returns its
        contribution to the loss (a sum over examples, or a mean divided by the number
        of micro-batches), and the collection `batch_moments`. It runs the model in
        inference mode, normalizing with the statistics that it is given.
      depth: The largest number of batch-normalized layers that follow each other; at
        least 1. More is not wrong, only slower.
      epsilon: Of the layers of batch renorm, whose `std` includes it.

    Returns:
      A function of parameters, `batch_stats` and the micro-batches (arrays with a
      leading axis of them) that returns the summed loss, its gradient by the
      parameters, and the moments of the full batch, with which
      `jaxnorm.tools.apply_batch_moments` moves the running statistics once.

    Raises:
      TypeError: If depth is not an integer.
      ValueError: If depth is below 1, or a layer collects no moments.

    Reference:
      The gradient through a fixed point: Christianson, 1994, Reverse accumulation and
      attractive fixed points, section 3.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen, jaxnorm.tools
      >>> model = jaxnorm.linen.BatchNorm(use_running_average=True)
      >>> x = jnp.array([[[1.0], [3.0]], [[8.0], [0.0]]])  # two micro-batches
      >>> variables = model.init(jax.random.key(0), x[0])
      >>> def loss(params, batch_stats, x):
      ...     variables = {"params": params, "batch_stats": batch_stats}
      ...     y, moments = model.apply(variables, x, mutable=["batch_moments"])
      ...     return jnp.sum(y**3), moments["batch_moments"]
      >>> step = jax.jit(jaxnorm.tools.full_batch_value_and_grad(loss, depth=1))
      >>> value, gradients, moments = step(
      ...     variables["params"], variables["batch_stats"], x
      ... )
      >>> value.round(2), moments["batch_moments"]["mean"]
      (Array(3.07, dtype=float32), Array([3.], dtype=float32))
    """
    if check_integer(depth, "depth") < 1:
        raise ValueError(f"depth must be at least 1, got {depth}.")

    def value_and_grad(
        params: Params, batch_stats: Tree, batches: Batch
    ) -> tuple[Array, Params, dict[Any, Any]]:
        def collect(stats: Tree) -> dict[Any, Any]:
            return _merge_all(lambda batch: loss(params, stats, batch)[1], batches)

        def settle(_: Array, stats: Tree) -> dict[Any, Any]:
            return apply_batch_moments(
                stats, collect(stats), momentum=0.0, epsilon=epsilon
            )

        start = map_layers(lambda path, layer: layer, batch_stats)
        stats = lax.fori_loop(0, depth, settle, start)
        moments = collect(stats)

        def differentiate(
            pull: Tree,
        ) -> tuple[Array, tuple[Params, dict[Any, Any]]]:
            """Returns the loss, and gradients of it and of what `pull` weighs."""

            def with_moments(
                params: Params, stats: Tree, batch: Batch
            ) -> tuple[Array, Array]:
                value, parts = loss(params, stats, batch)
                return value + _contribution(pull, parts, moments, stats), value

            def add(total: Any, batch: Batch) -> tuple[Any, None]:
                gradients, value = jax.grad(with_moments, (0, 1), has_aux=True)(
                    params, stats, batch
                )
                return jax.tree.map(jnp.add, total, (value, gradients)), None

            first = jax.tree.map(lambda leaf: leaf[0], batches)
            shapes = jax.eval_shape(loss, params, stats, first)[0]
            zeros = jax.tree.map(jnp.zeros_like, (shapes, (params, stats)))
            return lax.scan(add, zeros, batches)[0]

        pull = lax.fori_loop(
            0,
            depth,
            lambda _, pull: differentiate(pull)[1][1],
            jax.tree.map(jnp.zeros_like, stats),
        )
        value, (gradients, _) = differentiate(pull)
        return value, gradients, moments

    return value_and_grad


def _merge_all(collect: Callable[[Batch], Tree], batches: Batch) -> dict[Any, Any]:
    """Returns the moments of all micro-batches."""

    def merge(merged: Tree, batch: Batch) -> tuple[dict[Any, Any], None]:
        return merge_batch_moments([merged, collect(batch)]), None

    first, others = (
        jax.tree.map(lambda leaf, part=part: leaf[part], batches)
        for part in (0, slice(1, None))
    )
    return lax.scan(merge, dict(collect(first)), others)[0]


def _contribution(pull: Tree, parts: Tree, whole: Tree, stats: Tree) -> Array:
    """Returns what one micro-batch adds to the statistics, times their cotangent.

    Its gradient is the part of the micro-batch in the gradient of the merged
    statistics. The mean of all micro-batches is constant in it, since the deviations
    from that mean sum to zero, and so is the slope of the square root.
    """
    total = jnp.zeros((), jnp.float32)
    merged_layers = layers(whole)
    for path, own in layers(parts).items():
        pulled, layer = (node_at(tree, path) for tree in (pull, stats))
        merged = merged_layers[path]
        share = own["count"] / jnp.maximum(merged["count"], 1e-30)
        deviation = own["mean"] - lax.stop_gradient(merged["mean"])
        var = own["var"] + jnp.square(deviation)
        if "mean" in pulled:
            total += jnp.sum(pulled["mean"] * share * own["mean"])
        if "var" in pulled:
            total += jnp.sum(pulled["var"] * share * var)
        if "std" in pulled:
            slope = 1 / (2 * lax.stop_gradient(layer["std"]))
            total += jnp.sum(pulled["std"] * share * var * slope)
    return total
