"""Moments of several parts of x together: of examples, of ghosts, of features."""

from jax import Array, lax
from jax import numpy as jnp

from jaxnorm.core.measure import (
    CenteredMoments,
    from_sums,
    inner,
    mean_as_shift,
    named,
)
from jaxnorm.core.reduction import Reduction


def pool(parts: CenteredMoments, reduction: Reduction) -> CenteredMoments:
    """Returns the moments of several parts together, in one collective.

    Args:
      parts: Moments of parts of x; `shift` is the same for all.
      reduction: The axes along which the parts lie, and other instances.
    """
    count, weight = _weights(parts)
    square = parts.var + inner(parts.delta, parts.delta)
    sums = reduction.sums(count, weight * parts.delta, count * square)
    return from_sums(parts.shift, *named(sums))


def pool_about_mean(
    parts: CenteredMoments, reduction: Reduction, shift: Array
) -> CenteredMoments:
    """Returns the same of parts whose shifts may differ, in a collective more.

    The first finds the mean of all, which then is the shift: exact, however far apart
    the shifts are.

    Args:
      parts: Moments of parts of x.
      reduction: As in `pool`.
      shift: The mean of what saw no element.
    """
    count, weight = _weights(parts)
    number, total = reduction.sums(*lax.stop_gradient((count, weight * parts.mean)))
    shift = mean_as_shift(number, total, shift.astype(total.dtype))
    # One that is not finite would reach the parts that are.
    shift = jnp.where(jnp.isfinite(shift), shift, jnp.zeros_like(shift))
    return pool(parts.about(named(shift)), reduction)


def _weights(parts: CenteredMoments) -> tuple[Array, Array]:
    """Returns the count of each part, and the same in the dtype of its mean."""
    shape = jnp.broadcast_shapes(parts.count.shape, parts.var.shape)
    count = jnp.broadcast_to(parts.count, shape)
    return count, count.astype(parts.delta.dtype)
