"""The momentum of running averages: a number, or a function of the updates so far."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arguments.validation import check_scalar
from jaxnorm._core.arrays.dtypes import promote
from jaxnorm._core.arrays.known import MaybeKnown

Schedule = Callable[[Array], Array | float]
"""Momentum as a function of the number of updates so far (a float32 scalar)."""


def warmup_momentum(limit: float = 0.99) -> Schedule:
    """Returns a momentum schedule that makes running averages right from the start.

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
    """A schedule that equals another of the same limit, so that nothing retraces."""

    limit: float

    def __call__(self, count: ArrayLike) -> Array:
        count = jnp.asarray(count, jnp.float32)
        return jnp.minimum(self.limit, (1 + count) / (10 + count))


def evaluate_schedule(schedule: Schedule, count: Array, name: str) -> Array | float:
    """Returns the value of a schedule at the next update.

    Args:
      schedule: The function of the number of updates.
      count: That number, so far.
      name: The argument that the schedule was given for.

    Raises:
      TypeError: If the value is a function: a factory of schedules was given.
    """
    value = schedule(count)
    if callable(value):
        maker = getattr(schedule, "__name__", type(schedule).__name__)
        raise TypeError(
            f"{name} as a function must return a number, got a function, which "
            f"{maker} made. Call it: {name}={maker}()."
        )
    return value


def check_momentum(momentum: ArrayLike) -> MaybeKnown:
    """Returns `momentum`, the weight of the old value, as a scalar array.

    Raises:
      TypeError: If it is not a real number.
      ValueError: If it is not a scalar, or known while tracing and outside [0, 1].
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
    known: MaybeKnown = value.astype(dtype)
    return known


def resolve_momentum(
    momentum: ArrayLike | Schedule, running: Mapping[str, Array]
) -> MaybeKnown:
    """Returns momentum as an array; a schedule is evaluated for the next update.

    Args:
      momentum: A number, a traced scalar or a function of the number of updates.
      running: Running statistics, with `count` if they count their updates.

    Raises:
      TypeError: If it is a function and the statistics do not count, or returns one.
      ValueError: If it is outside [0, 1] or not a scalar.
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
