"""Full-batch gradients, through full-batch statistics, from micro-batches."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arguments.validation import check_integer
from jaxnorm.tools._apply import check_apply, collecting_moments
from jaxnorm.tools._trees import node_at
from jaxnorm.tools.batch_moments import apply_batch_moments, merge_batch_moments
from jaxnorm.tools.statistics import Tree, check_collection, layers, map_layers

Params = TypeVar("Params")
Batch = TypeVar("Batch")


def full_batch_value_and_grad(
    loss: Callable[[Params, Tree, Batch], tuple[Array, Tree]],
    *,
    depth: int,
    epsilon: float = 1e-5,
) -> Callable[[Params, Tree, Batch], tuple[Array, Params, dict[Any, Any]]]:
    """Returns a function that computes full-batch loss and gradients by micro-batches.

    Ordinary accumulation normalizes each micro-batch by its own statistics. Here each
    micro-batch is normalized with the statistics of all micro-batches together, and
    gradients flow through these statistics, as if the batch had not been split. The
    micro-batches are processed one after another.

    With statistics s, losses l_i and the moments of all micro-batches M(params, s)::

        s      = M(params, s)                                  depth + 1 passes
        lambda = d/ds sum_i l_i + (dM/ds)^T lambda             depth passes
        grad   = d/dparams sum_i l_i + (dM/dparams)^T lambda   one pass with the last

    The statistics of a layer depend only on those of the layers before it, so `depth`
    passes reach the exact solution of both equations.

    Args:
      loss: A function of parameters, statistics and one micro-batch. It returns the
        contribution of the micro-batch to the loss (a sum over examples, or a mean
        divided by the number of micro-batches), and the collection `batch_moments`. It
        must run the model in inference mode, which normalizes with the given
        statistics.
      depth: The largest number of batch-normalized layers in sequence; at least 1. A
        larger number gives the same result more slowly.
      epsilon: Epsilon of batch renorm layers, whose `std` includes it.

    Returns:
      A function of parameters, `batch_stats` and the micro-batches (arrays whose
      leading axis is the micro-batch). It returns the summed loss, its gradient with
      respect to the parameters, and the moments of the full batch. Pass these to
      `jaxnorm.tools.apply_batch_moments` to update the running statistics once.

    Raises:
      TypeError: If `loss` is not a function, or depth is not an integer; when the
        returned function is called, if `loss` does not return a pair, or `batch_stats`
        is not a dict.
      ValueError: If depth is below 1; when the returned function is called, if a layer
        collects no moments, the loss is not a scalar, `batch_stats` has parameters, or
        the micro-batches have no common leading axis.

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
    check_apply(
        loss, "loss", "a function of parameters, statistics and one micro-batch"
    )
    if check_integer(depth, "depth") < 1:
        raise ValueError(
            f"depth must be at least 1, got {depth}. Pass the number of batch norms in "
            "sequence."
        )
    loss = _checked(loss)

    def value_and_grad(
        params: Params, batch_stats: Tree, batches: Batch
    ) -> tuple[Array, Params, dict[Any, Any]]:
        check_collection(batch_stats, "batch_stats")
        _check_leading_axis(batches)

        def collect(stats: Tree) -> dict[Any, Any]:
            return _merge_all(lambda batch: loss(params, stats, batch)[1], batches)

        def replace_by_moments(_: Array, stats: Tree) -> dict[Any, Any]:
            return apply_batch_moments(
                stats, collect(stats), momentum=0.0, epsilon=epsilon
            )

        start = map_layers(lambda path, layer: layer, batch_stats)
        stats = lax.fori_loop(0, depth, replace_by_moments, start)
        moments = collect(stats)

        def differentiate(
            pull: Tree,
        ) -> tuple[Array, tuple[Params, dict[Any, Any]]]:
            """Returns the loss and its gradients, given the cotangent of statistics."""

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


def _checked(
    loss: Callable[[Params, Tree, Batch], tuple[Array, Tree]],
) -> Callable[[Params, Tree, Batch], tuple[Array, Tree]]:
    """Returns the loss function with checks of its results."""

    def checked(params: Params, stats: Tree, batch: Batch) -> tuple[Array, Tree]:
        with collecting_moments(loss):
            found = loss(params, stats, batch)
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                "loss must return a pair, the loss of a micro-batch and its "
                f"collection batch_moments, got {type(found).__name__}. With "
                'mutable=["batch_moments"], model.apply returns the collection.'
            )
        value, moments = found
        check_collection(moments, "the second result of loss", "batch_moments")
        if jnp.shape(value):
            raise ValueError(
                "the first result of loss must be a scalar, got shape "
                f"{jnp.shape(value)}. Sum it over the examples."
            )
        return value, moments

    return checked


def _check_leading_axis(batches: Any) -> None:
    """Checks that all arrays have the same number of micro-batches, at least one."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batches)]
    if len({shape[:1] for shape in shapes} - {(0,)}) != 1 or () in shapes:
        raise ValueError(
            "batches must be arrays with a leading axis for the micro-batches, of the "
            f"same size of at least 1, got the shapes {shapes}. Write "
            "x.reshape(number, -1, *x.shape[1:])."
        )


def _merge_all(collect: Callable[[Batch], Tree], batches: Batch) -> dict[Any, Any]:
    """Returns the merged moments of all micro-batches."""

    def merge(merged: Tree, batch: Batch) -> tuple[dict[Any, Any], None]:
        return merge_batch_moments([merged, collect(batch)]), None

    first, others = (
        jax.tree.map(lambda leaf, part=part: leaf[part], batches)
        for part in (0, slice(1, None))
    )
    return lax.scan(merge, dict(collect(first)), others)[0]


def _contribution(pull: Tree, parts: Tree, whole: Tree, stats: Tree) -> Array:
    """Returns the contribution of a micro-batch to the statistics, times a cotangent.

    Its gradient is the contribution of the micro-batch to the gradient of the merged
    statistics. The merged mean is a constant here, because the deviations from it sum
    to zero, and the slope of the square root is a constant too.

    Args:
      pull: Cotangent of the statistics.
      parts: Moments of the micro-batch.
      whole: Merged moments of all micro-batches.
      stats: Statistics of all micro-batches.
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
