"""Moments of several parts of x together: of examples, of ghosts, of features."""

from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arrays.rematerialization import tag_for_remat
from jaxnorm._core.moments.shifted_moments import (
    ShiftedMoments,
    mean_as_shift,
    moments_from_sums,
)
from jaxnorm._core.moments.total_variance import mean_square_about
from jaxnorm._core.reductions.reduction import Reduction


def pool_moments(parts: ShiftedMoments, reduction: Reduction) -> ShiftedMoments:
    """Returns the moments of several parts together, in one collective.

    Args:
      parts: Moments of parts of x; `shift` is the same for all.
      reduction: The axes along which the parts lie, and other instances.
    """
    count, weight = _weights(parts)
    square = mean_square_about(parts.var, parts.delta)
    sums = reduction.sums(count, weight * parts.delta, count * square)
    return moments_from_sums(parts.shift, *tag_for_remat(sums))


def pool_moments_about_mean(
    parts: ShiftedMoments, reduction: Reduction, shift: Array
) -> ShiftedMoments:
    """Returns the same of parts whose shifts may differ, in a collective more.

    The first finds the mean of all, which then is the shift: exact, however far apart
    the shifts are.

    Args:
      parts: Moments of parts of x.
      reduction: As in `pool_moments`.
      shift: The mean of features without valid elements.
    """
    count, weight = _weights(parts)
    number, total = reduction.sums(*lax.stop_gradient((count, weight * parts.mean)))
    shift = mean_as_shift(number, total, shift.astype(total.dtype))
    # A shift that is not finite would reach the parts whose shifts are.
    shift = jnp.where(jnp.isfinite(shift), shift, jnp.zeros_like(shift))
    return pool_moments(parts.with_shift(tag_for_remat(shift)), reduction)


def _weights(parts: ShiftedMoments) -> tuple[Array, Array]:
    """Returns the count of each part, and the same in the dtype of its mean."""
    shape = jnp.broadcast_shapes(parts.count.shape, parts.var.shape)
    count = jnp.broadcast_to(parts.count, shape)
    return count, count.astype(parts.delta.dtype)
