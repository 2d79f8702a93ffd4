"""The schedule of batch renormalization's bounds."""

import dataclasses
from typing import NamedTuple

from jax import Array
from jax import numpy as jnp
from jax.typing import ArrayLike

from jaxnorm._core.arguments.validation import check_finite
from jaxnorm._core.running.momentum import Schedule


class RenormBounds(NamedTuple):
    """Bounds of batch renormalization's corrections, as functions of the updates.

    Attributes:
      r_max: Bound of the correction of scale.
      d_max: Bound of the correction of the mean.
    """

    r_max: Schedule
    d_max: Schedule


def warmup_renorm(
    r_max: float = 3.0,
    d_max: float = 5.0,
    *,
    start: int = 5_000,
    r_end: int = 40_000,
    d_end: int = 25_000,
) -> RenormBounds:
    """Returns bounds that begin with batch norm and loosen linearly, as in the paper.

    At update t::

        r_max(t) = 1 + (r_max - 1) * clip((t - start) / (r_end - start), 0, 1)
        d_max(t) = d_max * clip((t - start) / (d_end - start), 0, 1)

    Args:
      r_max: The last bound of r, at least 1 and finite.
      d_max: The last bound of d, at least 0 and finite.
      start: Updates with plain batch norm.
      r_end: From which update on r has its last bound; more than `start`.
      d_end: From which update on d has its last bound; more than `start`.

    Returns:
      Two functions of the number of updates, for `r_max=` and `d_max=`.

    Raises:
      TypeError: If an argument is not a Python number.
      ValueError: If one is out of its range.

    Reference:
      Ioffe, 2017, Batch Renormalization, section 4
      (https://arxiv.org/abs/1702.03275).

    Example:
      >>> import jaxnorm
      >>> r_max, d_max = jaxnorm.warmup_renorm()
      >>> [float(r_max(t)) for t in (0, 5_000, 22_500, 40_000)]
      [1.0, 1.0, 2.0, 3.0]
      >>> [float(d_max(t)) for t in (0, 5_000, 15_000, 40_000)]
      [0.0, 0.0, 2.5, 5.0]
    """
    r_max = check_finite(r_max, "r_max", least=1.0)
    d_max = check_finite(d_max, "d_max", least=0.0)
    for name, update in (("start", start), ("r_end", r_end), ("d_end", d_end)):
        check_finite(update, name)
    if not 0 <= start < min(r_end, d_end):
        raise ValueError(
            "start must be at least 0 and before r_end and d_end, got "
            f"start={start}, r_end={r_end} and d_end={d_end}."
        )
    return RenormBounds(
        _Ramp(1.0, r_max, start, r_end), _Ramp(0.0, d_max, start, d_end)
    )


@dataclasses.dataclass(frozen=True)
class _Ramp:
    """A function that equals another of the same numbers, so that nothing retraces."""

    first: float
    last: float
    start: int
    end: int

    def __call__(self, count: ArrayLike) -> Array:
        elapsed = jnp.asarray(count, jnp.float32) - self.start
        part = jnp.clip(elapsed / (self.end - self.start), 0, 1)
        return self.first + (self.last - self.first) * part
