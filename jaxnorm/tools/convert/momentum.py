"""Conversion of the momentum of other frameworks to ours, the weight of old statistics.

The momentum of Keras is the same as ours.
"""

import dataclasses
import math

from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arguments.validation import check_number
from jaxnorm._core.running.momentum import Schedule


def momentum_from_torch(momentum: float | None) -> float | Schedule:
    """Converts PyTorch's momentum to ours, the weight of the old statistics.

    PyTorch's momentum is the weight of the new statistics, so ours is `1 - momentum`.
    None, PyTorch's cumulative average, becomes a function of the number of updates,
    t / (t + 1), for layers with a count.

    Args:
      momentum: A number in [0, 1], or None.

    Raises:
      TypeError: If `momentum` is neither a Python number nor None.
      ValueError: If `momentum` is outside [0, 1].

    Example:
      >>> import jaxnorm.tools
      >>> jaxnorm.tools.momentum_from_torch(0.1)
      0.9
    """
    return _CumulativeAverage() if momentum is None else 1 - _check_weight(momentum)


def momentum_to_torch(momentum: float | Schedule) -> float | None:
    """Converts our momentum to PyTorch's, the weight of the new statistics.

    Args:
      momentum: A number in [0, 1], or the result of `momentum_from_torch(None)`.

    Returns:
      `1 - momentum`, or None.

    Raises:
      TypeError: If `momentum` is another function, which PyTorch does not support, or
        not a Python number.
      ValueError: If `momentum` is outside [0, 1].

    Example:
      >>> import jaxnorm.tools
      >>> jaxnorm.tools.momentum_to_torch(0.75)
      0.25
    """
    if isinstance(momentum, _CumulativeAverage):
        return None
    if callable(momentum):
        raise TypeError(
            "momentum must be a number, or the result of momentum_from_torch(None), "
            "got another function, which PyTorch does not support. In PyTorch, set "
            "the momentum of the layer to 1 - momentum(t) before each step."
        )
    return 1 - _check_weight(momentum)


def momentum_from_haiku(decay_rate: float) -> Schedule:
    """Returns the momentum that averages statistics as Haiku does.

    Haiku's averages start at 0, and their bias toward 0 is corrected. With the decay
    rate a and after t updates, this equals an average with the momentum::

        a (1 - a^t) / (1 - a^(t + 1))

    It is 0 at the first update, so that the initial values are forgotten at once, and
    approaches a.

    Args:
      decay_rate: `decay_rate` of the Haiku layers, in (0, 1).

    Returns:
      A function from the number of updates to the momentum, for layers with a count.

    Raises:
      TypeError: If the decay rate is not a Python number.
      ValueError: If the decay rate is outside (0, 1).

    Reference:
      Kingma and Ba, 2015, Adam, section 3 (https://arxiv.org/abs/1412.6980), for the
      bias correction.

    Example:
      >>> import jaxnorm.tools
      >>> momentum = jaxnorm.tools.momentum_from_haiku(0.9)
      >>> [round(float(momentum(t)), 2) for t in (0, 1, 10, 100)]
      [0.0, 0.47, 0.85, 0.9]
    """
    check_decay_rate(decay_rate)
    return _DebiasedAverage(decay_rate)


def check_decay_rate(decay_rate: float) -> None:
    """Checks that a decay rate is between 0 and 1.

    Raises:
      TypeError: If it is not a Python number.
      ValueError: If it is outside (0, 1).
    """
    if not 0 < check_number(decay_rate, "decay_rate") < 1:
        raise ValueError(
            f"decay_rate must lie in (0, 1), got {decay_rate}. Pass the decay_rate of "
            "the Haiku layers."
        )


@dataclasses.dataclass(frozen=True)
class _CumulativeAverage:
    """The momentum t / (t + 1); all instances are equal, so jit does not retrace."""

    def __call__(self, count: ArrayLike) -> Array:
        count = jnp.asarray(count, jnp.float32)
        return count / (count + 1)


@dataclasses.dataclass(frozen=True)
class _DebiasedAverage:
    """Haiku's momentum; instances of equal rate are equal, so jit does not retrace."""

    decay_rate: float

    def __call__(self, count: ArrayLike) -> Array:
        count = jnp.asarray(count, jnp.float32)
        # Computing a^t - 1 directly would lose digits near a = 1.
        log = math.log(self.decay_rate)
        return self.decay_rate * jnp.expm1(count * log) / jnp.expm1((count + 1) * log)


def _check_weight(momentum: float) -> float:
    """Returns the momentum, if it is a number in [0, 1]."""
    if not 0 <= check_number(momentum, "momentum") <= 1:
        raise ValueError(
            f"momentum must lie in [0, 1], got {momentum}. It is the weight of the old "
            "statistics here, and of the new statistics in PyTorch."
        )
    return momentum
