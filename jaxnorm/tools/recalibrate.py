"""Recalibration: exact running statistics of given data, for fixed weights."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arguments.validation import check_finite, check_integer
from jaxnorm._core.moments.moments import Moments, merge_moments
from jaxnorm.tools._apply import check_apply, collecting_moments
from jaxnorm.tools.batch_moments import apply_batch_moments, merge_batch_moments
from jaxnorm.tools.statistics import Tree, batch_stats_of, map_layers

Batch = TypeVar("Batch")


def recalibrate(
    apply: Callable[[Tree, Batch], Tree],
    variables: Tree,
    batches: Iterable[Batch],
    *,
    passes: int = 1,
    prior_examples: int = 0,
    count_examples: Callable[[Batch], ArrayLike] | None = None,
    unbiased: bool = False,
    epsilon: float = 1e-5,
) -> dict[Any, Any]:
    """Returns running statistics that are exact for the given data.

    The moments of all batches are merged exactly, including the variance between
    batches, and replace the running averages. On training data this is precise batch
    norm; on data from another domain it is AdaBN. Parameters do not change.

    There are two ways, which differ in the mode in which `apply` runs the model:

    * In training mode, each layer normalizes with the statistics of the current batch.
      One pass recalibrates all layers, for the inputs that they get in training mode.
    * In inference mode, each layer normalizes with the statistics recalibrated so far.
      Pass k makes the k-th layer exact. So `passes` must be the number of layers in
      sequence; then all layers are exact for inference.

    With `prior_examples=N`, the old statistics count as much as N examples. If
    `batches` have n examples::

        mean = N / (N + n) old.mean + n / (N + n) mean
        var  = N / (N + n) old.var  + n / (N + n) var  + N n / (N + n)^2 |mean - old|^2

    Args:
      apply: A function of variables and one batch (jit it) that runs the model and
        returns its collection `batch_moments`; with Linen,
        `model.apply(variables, batch, train, mutable=["batch_moments"])[1]` has it
        under that name. Batches may be sharded or masked if the model handles this.
      variables: Variables for `apply`: nested dicts, with the running statistics under
        "batch_stats".
      batches: The data, iterated over once per pass.
      passes: Number of passes; at least 1.
      prior_examples: N, at least 0.
      count_examples: Returns the number of examples of a batch; by default the size of
        the first axis of its first array. Only called if N is not 0.
      unbiased: Whether the variance is multiplied by n / (n - 1).
      epsilon: Epsilon of batch renorm layers, whose `std` includes it.

    Returns:
      A new collection `batch_stats`, with the structure and dtypes of the old one. Each
      pass increments the counts of updates by one. `RunningNorm` counts elements, and
      its count becomes the number of elements in the data.

    Raises:
      TypeError: If `apply` or `count_examples` is not a function, a numeric argument is
        not a number, or `batches` is a single batch.
      ValueError: If there are no running statistics or no batches, `batches` cannot be
        iterated over again or holds the parts of one batch, a layer collects no
        moments, or a number is out of range.

    References: Wu and Johnson, 2021, Rethinking "Batch" in BatchNorm, section 3
    (https://arxiv.org/abs/2105.07576). Li et al., 2016, Revisiting Batch Normalization
    for Practical Domain Adaptation (https://arxiv.org/abs/1603.04779). Schneider et
    al., 2020, Improving robustness against common corruptions by covariate shift
    adaptation, section 3, without the term between (https://arxiv.org/abs/2006.16971).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm.linen, jaxnorm.tools
      >>> model = jaxnorm.linen.BatchNorm(use_running_average=False)
      >>> batches = [jnp.array([[1.0], [3.0], [5.0]]), jnp.array([[8.0], [8.0]])]
      >>> variables = model.init(jax.random.key(0), batches[0])
      >>> def apply(variables, batch):
      ...     return model.apply(variables, batch, mutable=["batch_moments"])[1][
      ...         "batch_moments"
      ...     ]
      >>> stats = jaxnorm.tools.recalibrate(apply, variables, batches)
      >>> stats["mean"], stats["var"].round(2)
      (Array([5.], dtype=float32), Array([7.6], dtype=float32))
    """
    check_apply(apply, "apply", "a function of variables and one batch")
    if check_integer(passes, "passes") < 1:
        raise ValueError(
            f"passes must be at least 1, got {passes}. Pass 1 in training mode, or the "
            "number of layers in sequence in inference mode."
        )
    check_finite(prior_examples, "prior_examples", least=0.0)
    if not (count_examples is None or callable(count_examples)):
        raise TypeError(
            "count_examples must be a function of a batch, got "
            f"{type(count_examples).__name__}. Pass lambda batch: ..., or omit it."
        )
    _check_batches(batches)
    if isinstance(batches, Iterator) and passes > 1:
        raise ValueError(
            f"batches must allow {passes} iterations, one per pass, got an iterator, "
            "which allows one. Pass a list, or an object whose __iter__ starts again."
        )
    source = stats = batch_stats_of(variables)
    for _ in range(passes):
        moments, examples = None, jnp.zeros((), jnp.float32)
        for batch in batches:
            with collecting_moments(apply):
                new = apply({**variables, "batch_stats": stats}, batch)
            moments = new if moments is None else merge_batch_moments([moments, new])
            if prior_examples:
                number = (count_examples or _first_axis)(batch)
                examples += jnp.asarray(number, jnp.float32)
        if moments is None:
            raise ValueError(
                "batches must hold at least one batch, got none. An iterator can be "
                "used only once, for one pass: pass a list, or make a new iterator."
            )
        if prior_examples:
            prior = prior_examples / jnp.maximum(examples, 1e-30)
            moments = _with_prior(source, moments, prior, epsilon)
        stats = apply_batch_moments(
            stats, moments, momentum=0.0, unbiased=unbiased, epsilon=epsilon
        )
    return dict(stats)


def _check_batches(batches: Any) -> None:
    """Checks that `batches` is not one batch, whose parts would be used as batches.

    It does not iterate over loaders and iterators, because a loader may start processes
    and an iterator would lose a batch.
    """
    is_array = hasattr(batches, "shape") and hasattr(batches, "dtype")
    is_tree = isinstance(batches, Mapping | str) or hasattr(batches, "_fields")
    is_iterable = hasattr(batches, "__iter__") or hasattr(batches, "__getitem__")
    if is_array or is_tree or not is_iterable:
        got, fix = type(batches).__name__, "For a single batch, pass [batch]."
        if is_array:
            got += f" of shape {np.shape(batches)}"
            fix += " If the first axis is over batches, pass list(batches)."
        raise TypeError(
            "batches must be an iterable of batches, such as a list or a loader, got "
            f"{got}. {fix}"
        )
    if isinstance(batches, list | tuple):
        # Sets, because a batch may be a list of any number of examples.
        ranks = {
            tuple(sorted({np.ndim(leaf) for leaf in jax.tree.leaves(batch)}))
            for batch in batches
        }
        if len(ranks) > 1:
            raise ValueError(
                "batches must hold arrays of the same ranks in each batch, got ranks "
                f"{' and '.join(map(str, sorted(ranks)))}. If these are the parts of "
                "one batch, such as images and labels, pass [batch]."
            )


def _first_axis(batch: Any) -> int:
    """Returns the size of the first axis of the first array of a batch."""
    return jnp.shape(jax.tree.leaves(batch)[0])[0]


def _with_prior(
    source: Tree, moments: Tree, prior: Array, epsilon: float
) -> dict[Any, Any]:
    """Merges moments with old statistics, which get `prior` times their count."""

    def merge(
        path: tuple[Any, ...], layer: dict[Any, Any], old: Tree
    ) -> dict[Any, Any]:
        target = Moments(**layer)
        mean = old.get("mean", target.mean)
        var = old.get("var", target.var)
        if "std" in old:
            var = jnp.maximum(jnp.square(old["std"]) - epsilon, 0.0)
        before = Moments(prior * target.count, jnp.asarray(mean), jnp.asarray(var))
        return merge_moments(target, before)._asdict()

    return map_layers(merge, moments, source)
