"""The moments that the package computes with: their mean is in two parts."""

from typing import NamedTuple

from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arrays.known import MaybeKnown
from jaxnorm._core.arrays.safe_math import (
    nan_if_overflowed,
    real_inner_product,
    safe_count,
)
from jaxnorm._core.arrays.sharding import where


class ShiftedMoments(NamedTuple):
    """Moments that have the rank of x, with the mean in two parts.

    The mean is `shift + delta`. A float32 mean of 1e4 is off by up to 5e-4, and so is
    everything normalized with it; `(x - shift) - delta` is not.

    Attributes:
      count: Number of elements of each feature, or their weight; known without a mask.
      shift: Subtracted from x before it is summed.
      delta: Mean of `x - shift`.
      var: Biased variance, clamped to at least its rounding noise.
    """

    count: MaybeKnown  # type: ignore[assignment]  # hides tuple.count
    shift: Array
    delta: Array
    var: Array

    @property
    def mean(self) -> Array:
        """The mean as one number, rounded."""
        return self.shift + self.delta

    def with_shift(self, shift: Array) -> "ShiftedMoments":
        """Returns the same moments with another shift, which has to be finite."""
        delta = self.delta + (self.shift - shift.astype(self.shift.dtype))
        return self._replace(shift=shift.astype(self.shift.dtype), delta=delta)

    def with_var_where_empty(self, var: Array) -> "ShiftedMoments":
        """Returns the moments, with `var` for features without valid elements.

        The mean of these features is the shift already. Their count becomes 1, so that
        they are normalized with this mean and variance, and not set to 0.
        """
        var = where(self.count > 0, self.var, var.astype(self.var.dtype))
        return self._replace(count=safe_count(self.count), var=var)


def moments_from_sums(
    shift: Array, count: MaybeKnown, total: Array, total_square: Array
) -> ShiftedMoments:
    """Returns moments, given the sums of `x - shift` and of its squares."""
    count_or_1 = safe_count(count)
    delta = total / count_or_1.astype(total.dtype)
    square = real_inner_product(delta, delta)
    var = total_square / count_or_1 - square
    noise = lax.stop_gradient(rounding_noise(square))
    var = nan_if_overflowed(jnp.where(var <= noise, noise, var))
    return ShiftedMoments(count, shift, delta, var)


def mean_as_shift(count: MaybeKnown, total: Array, shift: Array) -> Array:
    """Returns the mean, rounded as a shift; `shift` where no element is valid."""
    mean = total / safe_count(count).astype(total.dtype)
    return where(count > 0, round_last_bit(mean), shift)


def safe_shift(shift: Array) -> Array:
    """Returns `shift` where 2**24 squares of it have a finite sum, else 0."""
    limit = jnp.finfo(shift.dtype).max ** 0.5 / 2**12
    moderate = jnp.abs(shift) < limit  # False for NaN
    return jnp.where(moderate, shift, 0)


def round_last_bit(shift: Array) -> Array:
    """Returns the shift rounded to one bit less than its dtype has.

    XLA may repeat the division that gave the shift in the kernel that subtracts it, and
    contract both into one operation without rounding in between. That kernel would then
    subtract a different number from x. Explicit rounding prevents this, and unlike a
    barrier leaves layer norm in one kernel on GPUs. Any number near the mean will do as
    a shift.
    """
    if jnp.iscomplexobj(shift):
        return lax.complex(round_last_bit(shift.real), round_last_bit(shift.imag))
    kind = jnp.finfo(shift.dtype)
    return lax.reduce_precision(shift, kind.nexp, kind.nmant - 1)


def rounding_noise(square: Array) -> Array:
    """Returns a bound on the rounding error of a variance, given |delta|^2."""
    return 4 * jnp.finfo(square.dtype).eps * square
