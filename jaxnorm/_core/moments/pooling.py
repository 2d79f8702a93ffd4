"""Merges the moments of parts of x: of examples, ghost batches or features."""

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
    """Merges the moments of parts that have one shift, in one collective.

    Args:
      parts: Moments of parts of x; `shift` is the same for all.
      reduction: The axes along which the parts lie, and mapped axes.
    """
    count, weight = _weights(parts)
    square = mean_square_about(parts.var, parts.delta)
    sums = reduction.sums(count, weight * parts.delta, count * square)
    return moments_from_sums(parts.shift, *tag_for_remat(sums))


def pool_moments_about_mean(
    parts: ShiftedMoments, reduction: Reduction, shift: Array
) -> ShiftedMoments:
    """Merges the moments of parts whose shifts may differ, in two collectives.

    The first finds the mean of all parts, which is then the shift, so that the result
    is exact however far apart the shifts are.

    Args:
      parts: Moments of parts of x.
      reduction: As in `pool_moments`.
      shift: The mean of features without valid elements.
    """
    count, weight = _weights(parts)
    number, total = reduction.sums(*lax.stop_gradient((count, weight * parts.mean)))
    shift = mean_as_shift(number, total, shift.astype(total.dtype))
    # A shift that is not finite would spread to parts whose own shifts are finite.
    shift = jnp.where(jnp.isfinite(shift), shift, jnp.zeros_like(shift))
    return pool_moments(parts.with_shift(tag_for_remat(shift)), reduction)


def _weights(parts: ShiftedMoments) -> tuple[Array, Array]:
    """Returns the count of each part, and the same in the dtype of its mean."""
    shape = jnp.broadcast_shapes(parts.count.shape, parts.var.shape)
    count = jnp.broadcast_to(parts.count, shape)
    return count, count.astype(parts.delta.dtype)
