"""Momentum as others mean it, and ours, the weight of the old statistics.

Keras' is ours.
"""

import dataclasses
import math

from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arguments.validation import check_number
from jaxnorm._core.running.momentum import Schedule


def momentum_from_torch(momentum: float | None) -> float | Schedule:
    """Returns our momentum, the weight of the old statistics, for PyTorch's.

    PyTorch's is the weight of the new ones, so ours is `1 - momentum`. None, its
    cumulative average, is a function of the number of updates, t / (t + 1), for layers
    with a count.

    Args:
      momentum: A number in [0, 1], or None.

    Raises:
      TypeError: If it is not a Python number.
      ValueError: If it is outside [0, 1].

    Example:
      >>> import jaxnorm.tools
      >>> jaxnorm.tools.momentum_from_torch(0.1)
      0.9
    """
    return _CumulativeAverage() if momentum is None else 1 - _check_weight(momentum)


def momentum_to_torch(momentum: float | Schedule) -> float | None:
    """Returns PyTorch's momentum, the weight of the new statistics, for ours.

    Args:
      momentum: A number in [0, 1], or what `momentum_from_torch(None)` returned.

    Returns:
      `1 - momentum`, or None.

    Raises:
      TypeError: If it is another function, which PyTorch cannot take, or no Python
        number.
      ValueError: If it is outside [0, 1].

    Example:
      >>> import jaxnorm.tools
      >>> jaxnorm.tools.momentum_to_torch(0.75)
      0.25
    """
    if isinstance(momentum, _CumulativeAverage):
        return None
    if callable(momentum):
        raise TypeError(
            "PyTorch's momentum is a number or None, got a function. Set it to "
            "1 - momentum(t) before each step."
        )
    return 1 - _check_weight(momentum)


def momentum_from_haiku(decay_rate: float) -> Schedule:
    """Returns the momentum with which statistics are averaged as in Haiku.

    Haiku averages from 0 and removes the bias towards it. After t updates that is, with
    the decay rate a, to average with the momentum::

        a (1 - a^t) / (1 - a^(t + 1))

    0 at the first update, so that the initial values are forgotten at once; a in the
    end.

    Args:
      decay_rate: Haiku's, in (0, 1).

    Returns:
      A function from the number of updates to the momentum, for layers with a count.

    Raises:
      TypeError: If the decay rate is not a Python number.
      ValueError: If it is outside (0, 1).

    Reference:
      Kingma and Ba, 2015, Adam, section 3 (https://arxiv.org/abs/1412.6980), for the
      removal of the bias.

    Example:
      >>> import jaxnorm.tools
      >>> momentum = jaxnorm.tools.momentum_from_haiku(0.9)
      >>> [round(float(momentum(t)), 2) for t in (0, 1, 10, 100)]
      [0.0, 0.47, 0.85, 0.9]
    """
    check_decay_rate(decay_rate)
    return _DebiasedAverage(decay_rate)


def check_decay_rate(decay_rate: float) -> None:
    """Checks that a decay rate of Haiku is one.

    Raises:
      TypeError: If it is not a Python number.
      ValueError: If it is outside (0, 1).
    """
    if not 0 < check_number(decay_rate, "decay_rate") < 1:
        raise ValueError(f"decay_rate must lie in (0, 1), got {decay_rate}.")


@dataclasses.dataclass(frozen=True)
class _CumulativeAverage:
    """A function that equals another, so that nothing retraces."""

    def __call__(self, count: ArrayLike) -> Array:
        count = jnp.asarray(count, jnp.float32)
        return count / (count + 1)


@dataclasses.dataclass(frozen=True)
class _DebiasedAverage:
    """A function that equals another of the same rate, so that nothing retraces."""

    decay_rate: float

    def __call__(self, count: ArrayLike) -> Array:
        count = jnp.asarray(count, jnp.float32)
        # a^t - 1 by itself would lose the digits that matter, near a = 1
        log = math.log(self.decay_rate)
        return self.decay_rate * jnp.expm1(count * log) / jnp.expm1((count + 1) * log)


def _check_weight(momentum: float) -> float:
    if not 0 <= check_number(momentum, "momentum") <= 1:
        raise ValueError(f"momentum must lie in [0, 1], got {momentum}.")
    return momentum
