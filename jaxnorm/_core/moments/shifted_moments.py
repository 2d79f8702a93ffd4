"""Moments as the package carries them: of the rank of x, the mean in two parts."""

from typing import NamedTuple

from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arrays.known import Known
from jaxnorm._core.arrays.safe_math import (
    nan_if_overflowed,
    real_inner_product,
    safe_count,
)
from jaxnorm._core.arrays.sharding import where


class ShiftedMoments(NamedTuple):
    """Moments as the package carries them: of the rank of x, the mean in two parts.

    The mean is `shift + delta`. A float32 mean of 1e4 is off by up to 5e-4, and so is
    all that is normalized with it; `(x - shift) - delta` is not.

    Attributes:
      count: Elements, or weight, that each feature saw; known where there is no mask.
      shift: What was subtracted before the sums.
      delta: Mean of `x - shift`.
      var: Biased variance, at least its own rounding noise.
    """

    count: Known  # type: ignore[assignment]  # hides tuple.count
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
        """Returns them with another variance for features without valid elements.

        Their mean is the shift already. They count as nonempty, so that they are
        normalized with these, and not to 0.
        """
        var = where(self.count > 0, self.var, var.astype(self.var.dtype))
        return self._replace(count=safe_count(self.count), var=var)


def moments_from_sums(
    shift: Array, count: Known, total: Array, total_square: Array
) -> ShiftedMoments:
    """Returns moments, given the sums of `x - shift` and of its squares."""
    count_or_1 = safe_count(count)
    delta = total / count_or_1.astype(total.dtype)
    square = real_inner_product(delta, delta)
    var = total_square / count_or_1 - square
    noise = lax.stop_gradient(rounding_noise(square))
    var = nan_if_overflowed(jnp.where(var <= noise, noise, var))
    return ShiftedMoments(count, shift, delta, var)


def mean_as_shift(count: Known, total: Array, shift: Array) -> Array:
    """Returns the mean, rounded as a shift; `shift` where there is no element."""
    mean = total / safe_count(count).astype(total.dtype)
    return where(count > 0, round_last_bit(mean), shift)


def safe_shift(shift: Array) -> Array:
    """Returns `shift` where 2**24 squares of it have a finite sum, else 0."""
    limit = jnp.finfo(shift.dtype).max ** 0.5 / 2**12
    moderate = jnp.abs(shift) < limit  # False for NaN
    return jnp.where(moderate, shift, 0)


def round_last_bit(shift: Array) -> Array:
    """Returns the shift rounded to one bit less than its dtype has.

    XLA may repeat the division that gave it in the kernel that subtracts it, and then
    contracts both to one operation without the rounding between them: there, x would be
    shifted by another number than here. An explicit rounding forbids that, and unlike a
    barrier does not keep the whole of layer norm from being one kernel on GPUs. As a
    shift, any number near the mean will do.
    """
    if jnp.iscomplexobj(shift):
        return lax.complex(round_last_bit(shift.real), round_last_bit(shift.imag))
    kind = jnp.finfo(shift.dtype)
    return lax.reduce_precision(shift, kind.nexp, kind.nmant - 1)


def rounding_noise(square: Array) -> Array:
    """Returns a bound on the rounding error of a variance, given |delta|^2."""
    return 4 * jnp.finfo(square.dtype).eps * square
