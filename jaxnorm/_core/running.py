"""Running averages: their momentum, and the update of running statistics.

Statistics are mappings from names to arrays: those of `mean`, `var` and `std` (the
square root of var + epsilon) that the normalizer keeps, and perhaps `count`, the number
of updates.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.dtypes import accumulation_dtype, promote, real_dtype
from jaxnorm._core.known import Known, is_known
from jaxnorm._core.moments import Moments
from jaxnorm._core.sharding import shard_as, where
from jaxnorm._core.validation import check_scalar

_State = TypeVar("_State")

Schedule = Callable[[Array], Array | float]
"""Momentum as a function of the number of updates so far (a float32 scalar)."""


def warmup_momentum(limit: float = 0.99) -> Schedule:
    """Returns a momentum for which a running average is right from the start.

    At update t (from 0) it is::

        min(limit, (1 + t) / (10 + t))

    A plain average with momentum 0.99 still holds 37% of its initial values after 100
    updates. Here they have all but gone after 10, and from update 890 on (for 0.99) it
    is the plain average.

    Args:
      limit: Momentum in the long run, in [0, 1].

    Returns:
      A function from the number of updates to the momentum, for `momentum=` together
      with `init_batch_stats(..., counted=True)`, or with `jaxnorm.linen.BatchNorm`.

    Raises:
      ValueError: If `limit` is outside [0, 1].

    Reference:
      TensorFlow's `tf.train.ExponentialMovingAverage`, argument `num_updates`.

    Example:
      >>> import jaxnorm
      >>> momentum = jaxnorm.warmup_momentum(0.99)
      >>> [round(float(momentum(t)), 2) for t in (0, 10, 100, 1000)]
      [0.1, 0.55, 0.92, 0.99]
    """
    check_momentum(limit)
    return _WarmupMomentum(limit)


@dataclasses.dataclass(frozen=True)
class _WarmupMomentum:
    """A function that equals another of the same limit, so that nothing retraces."""

    limit: float

    def __call__(self, count: ArrayLike) -> Array:
        count = jnp.asarray(count, jnp.float32)
        return jnp.minimum(self.limit, (1 + count) / (10 + count))


def evaluate_schedule(schedule: Schedule, count: Array, name: str) -> Array | float:
    """Returns what a schedule says for the next update.

    Args:
      schedule: The function of the number of updates.
      count: That number, so far.
      name: The argument that the schedule was given for.

    Raises:
      TypeError: If that is a function, since a maker of schedules was given.
    """
    value = schedule(count)
    if callable(value):
        maker = getattr(schedule, "__name__", type(schedule).__name__)
        raise TypeError(
            f"{name} as a function must return a number, got a function, which "
            f"{maker} made. Call it: {name}={maker}()."
        )
    return value


def check_momentum(momentum: ArrayLike) -> Known:
    """Returns `momentum`, the weight of the old value, as a scalar array.

    Raises:
      TypeError: If it is no real number.
      ValueError: If it is no scalar, or known while tracing and outside [0, 1].
    """
    if momentum is None:
        raise TypeError(
            "momentum must be a real number, got None. PyTorch's None, a cumulative "
            "average, is jaxnorm.tools.momentum_from_torch(None)."
        )
    value = check_scalar(momentum, "momentum")
    if isinstance(value, np.ndarray) and not 0 <= value <= 1:
        raise ValueError(
            "momentum, the weight of the old running value, must lie in [0, 1], got "
            f"{momentum}. PyTorch's momentum is the weight of the new value: pass "
            "1 - momentum."
        )
    dtype = promote(jnp.float32, jax.dtypes.canonicalize_dtype(value.dtype))
    known: Known = value.astype(dtype)
    return known


def update_running(
    running: Mapping[str, Array],
    moments: Moments,
    *,
    weight: Known,
    unbiased: bool = False,
    epsilon: float = 0.0,
    skip_nonfinite: bool = False,
    updates: Array | None = None,
) -> dict[str, Array]:
    """Moves running statistics towards the moments of a batch, and counts the update.

    Args:
      running: Running statistics of the feature shape; a count is a scalar.
      moments: Moments of the batch, of the feature shape.
      weight: Weight of the old statistics, in [0, 1]; a scalar, or of that shape.
      unbiased: Whether `moments.var` is multiplied by count / (count - 1).
      epsilon: What `std` includes.
      skip_nonfinite: Whether all stay as they were where one would not be finite.
      updates: How many updates this one stands for; 1 where None, and 0 for an empty
        batch.

    Returns:
      The same statistics, in the same order and dtypes.
    """
    nonempty = None
    if not (is_known(moments.count) and moments.count > 0):
        nonempty = jnp.asarray(moments.count > 0)
    var = moments.var * unbiased_factor(moments.count) if unbiased else moments.var
    batch = {"mean": moments.mean, "var": var}
    if "std" in running:
        batch["std"] = jnp.sqrt(var + epsilon)
    batch = {name: value for name, value in batch.items() if name in running}
    new = dict(running) | {
        name: average(running[name], value, weight=weight, nonempty=nonempty)
        for name, value in batch.items()
    }
    if "count" in running:
        if updates is None:
            updates = jnp.ones(()) if nonempty is None else jnp.any(nonempty)
        new["count"] = running["count"] + updates.astype(running["count"].dtype)
    if skip_nonfinite:
        new = skip_if_nonfinite((moments.count, batch), new, dict(running))
    return new


def average(old: Array, new: Array, *, weight: Known, nonempty: Array | None) -> Array:
    """Returns `weight * old + (1 - weight) * new`, in the dtype of `old`.

    A complex `new` makes the result complex. No gradient flows into it.

    Args:
      old: Running statistic.
      new: That of the batch.
      weight: Weight of the old one, in [0, 1]. With 0 it is forgotten, even if NaN.
      nonempty: Where the batch has an element at all; elsewhere `old` stays. None for
        everywhere.
    """
    # Where nothing is traced, in one program; else what is known remains so.
    traced = any(isinstance(value, jax.core.Tracer) for value in (old, new))
    compute = _average if traced else jax.jit(_average)
    return compute(old, new, weight=weight, nonempty=nonempty)


def _average(old: Array, new: Array, *, weight: Known, nonempty: Array | None) -> Array:
    old, new = lax.stop_gradient((old, new))
    # The state keeps its sharding, and so its type, in a scan.
    new = shard_as(old, new)
    dtype = accumulation_dtype(old.dtype, new.dtype)
    weight = weight.astype(real_dtype(dtype))
    if isinstance(weight, Array):
        weight = shard_as(old, lax.stop_gradient(weight))
    # Selected before multiplied: what has no weight may be NaN.
    if nonempty is not None:
        nonempty = shard_as(old, nonempty)
        weight = where(nonempty, weight, 1)
        new = where(nonempty, new, jnp.zeros_like(new))
    old = where(weight > 0, old, jnp.zeros_like(old))
    kept, added = weight.astype(dtype), (1 - weight).astype(dtype)
    mixed = kept * old.astype(dtype) + added * new.astype(dtype)
    result = promote(old.dtype, jnp.complex64) if jnp.iscomplexobj(mixed) else old.dtype
    return jnp.asarray(mixed, result)


def resolve_momentum(
    momentum: ArrayLike | Schedule, running: Mapping[str, Array]
) -> Known:
    """Returns momentum as an array; that of the next update if it is a schedule.

    Args:
      momentum: A number, a traced scalar or a function of the number of updates.
      running: Running statistics, with `count` if they count their updates.

    Raises:
      TypeError: If it is a function and the statistics do not count, or returns one.
      ValueError: If it is outside [0, 1] or no scalar.
    """
    if not callable(momentum):
        return check_momentum(momentum)
    if "count" not in running:
        names = [name for name in ("mean", "var") if name in running]
        kind = names[0] if len(names) == 1 else "batch"
        raise TypeError(
            "momentum as a function needs statistics that count their updates, got "
            f"{' and '.join(names)} without a count. Make them with "
            f"init_{kind}_stats(feature_shape, counted=True)."
        )
    return check_momentum(
        evaluate_schedule(momentum, jnp.asarray(running["count"]), "momentum")
    )


def unbiased_factor(count: Known) -> Known:
    """Returns count / (count - 1), which makes a variance unbiased; 1 up to 1."""
    if is_known(count):
        return np.where(count > 1, count / np.maximum(count - 1, 1), 1)
    more_than_one = count > 1
    others = jnp.where(more_than_one, count - 1, 1)
    return jnp.where(more_than_one, count / others, 1)


def skip_if_nonfinite(batch: object, new: _State, old: _State) -> _State:
    """Returns `new`; `old` if the batch, or a new statistic alone, is not finite.

    All statistics of the layer are kept, or none.

    Args:
      batch: The statistics of the batch; arrays in any structure.
      new: The state after the update.
      old: The state before it, of the same structure.
    """
    finite = [jnp.isfinite(leaf) for leaf in jax.tree.leaves(batch)]
    for after, before in zip(jax.tree.leaves(new), jax.tree.leaves(old), strict=True):
        finite.append(jnp.isfinite(after) | ~jnp.isfinite(before))
    intact = functools.reduce(jnp.logical_and, [jnp.all(leaf) for leaf in finite])
    return jax.tree.map(
        lambda new, old: jnp.where(intact, new, old.astype(new.dtype)), new, old
    )
