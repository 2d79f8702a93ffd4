"""Mean and variance of one batch, over axes and over devices: how they are computed.

The variance comes from one pass over x, and one collective, as the mean square of
`x - shift` less the square of its mean. With a shift near the mean nothing cancels; the
running mean is such a shift, at no cost, and the same on all devices.
"""

import functools
from typing import NamedTuple, TypeVar

import jax
from jax import Array, lax
from jax import numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from jaxnorm._core.dtypes import accumulation_dtype, real_dtype
from jaxnorm._core.masking import zero_masked
from jaxnorm._core.near_mean import near_mean
from jaxnorm._core.reduction import Reduction
from jaxnorm._core.sharding import where

_Tree = TypeVar("_Tree")

MOMENTS_NAME = "jaxnorm_moments"
"""The name of what moments are made of, for rematerialization policies.

Under `jax.checkpoint_policies.save_only_these_names(jaxnorm.MOMENTS_NAME)` a
rematerialized block repeats neither the reductions nor the collective.
"""


KEEP_MOMENTS = jax.checkpoint_policies.save_only_these_names(MOMENTS_NAME)
"""The policy of what a normalizer computes again itself: all but its reductions."""


class ShiftedMoments(NamedTuple):
    """Moments as the package carries them: of the rank of x, the mean in two parts.

    The mean is `shift + delta`. A float32 mean of 1e4 is off by up to 5e-4, and so is
    all that is normalized with it; `(x - shift) - delta` is not.

    Attributes:
      count: Elements, or weight, that each feature saw.
      shift: What was subtracted before the sums.
      delta: Mean of `x - shift`.
      var: Biased variance, at least its own rounding noise.
    """

    count: Array  # type: ignore[assignment]  # hides tuple.count
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


def inverse_std(
    var: Array, epsilon: float, dtype: DTypeLike, nonempty: Array | None
) -> Array:
    """Returns 1 / sqrt(var + epsilon) in a dtype; 0 where `nonempty` is False.

    And where both are 0: what is divided by nothing is the distance of equal numbers
    from their mean, which is 0 as well.

    Not by rsqrt, whose derivative in JAX has its cube, which underflows from a standard
    deviation of 1e13 on.

    Args:
      var: Variance.
      epsilon: Is added to it.
      dtype: A complex one means its real part's.
      nonempty: Where there is an element; None for everywhere.
    """
    square = var.astype(real_dtype(dtype)) + epsilon
    if epsilon == 0:
        positive = square != 0  # True for NaN, which so spreads
        nonempty = positive if nonempty is None else nonempty & positive
    if nonempty is None:
        return 1 / jnp.sqrt(square)
    # Selected twice, so that no operation gives infinity.
    rstd = 1 / jnp.sqrt(where(nonempty, square, jnp.ones_like(square)))
    return where(nonempty, rstd, jnp.zeros_like(rstd))


def safe_sqrt(square: Array) -> Array:
    """Returns the root; 0 with derivatives 0, of any order, where it is below 1e-19."""
    zero = square < jnp.finfo(square.dtype).tiny  # False for NaN, which so spreads
    # Selected before the root too: its slope at 0 is infinite, and 0 times that is NaN.
    positive = jnp.sqrt(jnp.where(zero, jnp.ones_like(square), square))
    return jnp.where(zero, jnp.zeros_like(positive), positive)


def real_inner_product(a: Array, b: Array) -> Array:
    """Returns Re(conj(a) b) of each pair of elements."""
    return a.real * b.real + a.imag * b.imag if jnp.iscomplexobj(a) else a * b


def safe_shift(shift: Array) -> Array:
    """Returns `shift` where 2**24 squares of it have a finite sum, else 0."""
    limit = jnp.finfo(shift.dtype).max ** 0.5 / 2**12
    moderate = jnp.abs(shift) < limit  # False for NaN
    return jnp.where(moderate, shift, jnp.zeros_like(shift))


def rounding_noise(delta: Array) -> Array:
    """Returns a bound on the rounding error of a variance, given `delta`."""
    return 4 * jnp.finfo(delta.dtype).eps * real_inner_product(delta, delta)


# Under jit, layers of the same shapes are traced, and differentiated, once for all.
# Inlined, since XLA for TPUs makes more kernels of functions that are called.
@functools.partial(
    jax.jit, inline=True, static_argnames=("reduction", "use_fast_variance")
)
def compute_moments(
    x: Array,
    reduction: Reduction,
    *,
    mask: Array | None,
    shift: Array,
    use_fast_variance: bool,
) -> ShiftedMoments:
    """Returns the moments of x.

    Args:
      x: Input of any inexact dtype.
      reduction: What to average over.
      mask: Aligned mask or weights, or None.
      shift: What to subtract before summing, with the rank of x, the same on all
        instances; 0 is used where it is not finite or so large that squares overflow.
      use_fast_variance: One pass, exact to rounding while the shift is within some
        standard deviations of the mean; otherwise a first pass, with a collective of
        its own, makes the mean the shift.
    """
    dtype = accumulation_dtype(x.dtype)
    shift = lax.stop_gradient(safe_shift(shift.astype(dtype)))
    # Selected before any arithmetic: NaN under the mask reaches no derivative either.
    x = zero_masked(mask, x).astype(dtype)
    if not use_fast_variance:
        # Not relative to the given shift: far from the mean, that would round x away.
        # And not differentiated: nothing below depends on the choice of the shift.
        count, total = reduction.weighted_sums(lax.stop_gradient(x), mask=mask)
        shift = tag_for_remat(mean_as_shift(count, total, shift))
    return _moments_with_shift(shift, x, reduction, mask)


@functools.partial(jax.jit, inline=True, static_argnames="reduction")
def compute_own_moments(
    x: Array, reduction: Reduction, *, mask: Array | None
) -> ShiftedMoments:
    """Returns the moments of x, without a prior estimate of its mean."""
    dtype = accumulation_dtype(x.dtype)
    if mask is not None:  # a part may see nothing
        shift = jnp.zeros((1,) * x.ndim, dtype)
        return compute_moments(
            x, reduction, mask=mask, shift=shift, use_fast_variance=False
        )
    shift = near_mean(x, reduction)
    shift = tag_for_remat(round_last_bit(shift))
    return _moments_with_shift(shift, x.astype(dtype), reduction, None)


def _moments_with_shift(
    shift: Array, x: Array, reduction: Reduction, mask: Array | None
) -> ShiftedMoments:
    deviation = x - reduction.broadcast_back(shift)
    sums = reduction.weighted_sums(
        deviation,
        real_inner_product(deviation, deviation),
        mask=mask,
    )
    return moments_from_sums(shift, *tag_for_remat(sums))


@functools.partial(jax.jit, inline=True, static_argnames="reduction")
def compute_mean_square(
    x: Array, reduction: Reduction, *, mask: Array | None
) -> ShiftedMoments:
    """Returns moments about 0: the mean square in place of the variance.

    It is infinite, not NaN, where squares overflow: with a second use of it, XLA for
    GPUs would make two kernels more of RMS norm.
    """
    dtype = accumulation_dtype(x.dtype)
    x = zero_masked(mask, x).astype(dtype)
    sums = reduction.weighted_sums(real_inner_product(x, x), mask=mask)
    count, power = tag_for_remat(sums)
    zero = jnp.zeros((1,) * x.ndim, dtype)
    return ShiftedMoments(count, zero, zero, power / safe_count(count))


def tag_for_remat(values: _Tree, name: str = MOMENTS_NAME) -> _Tree:
    """Returns values under a name that policies know; by default, that of moments.

    Of moments, the sums are named, so that what is made of them is made again, and no
    reduction: a derivative needs numbers in between, which no name of the moments
    themselves would keep.
    """

    def rename(leaf: Array) -> Array:
        if jnp.iscomplexobj(leaf):  # which JAX does not name
            return lax.complex(rename(leaf.real), rename(leaf.imag))
        return checkpoint_name(leaf, name)

    return jax.tree.map(rename, values)


def safe_count(count: Array) -> Array:
    """Returns `count`, and 1 in place of 0, to divide sums that are 0 there."""
    return jnp.where(count > 0, count, jnp.ones_like(count))


def mean_as_shift(count: Array, total: Array, shift: Array) -> Array:
    """Returns the mean, rounded as a shift; `shift` where there is no element."""
    mean = total / safe_count(count).astype(total.dtype)
    return where(count > 0, round_last_bit(mean), shift)


def moments_from_sums(
    shift: Array, count: Array, total: Array, total_square: Array
) -> ShiftedMoments:
    """Returns moments, given the sums of `x - shift` and of its squares."""
    delta = total / safe_count(count).astype(total.dtype)
    var = total_square / safe_count(count) - real_inner_product(delta, delta)
    noise = lax.stop_gradient(rounding_noise(delta))
    var = nan_if_overflowed(jnp.where(var <= noise, noise, var))
    return ShiftedMoments(count, shift, delta, var)


def nan_if_overflowed(var: Array) -> Array:
    """Returns `var`, and NaN where the sum of squares exceeded the range of its dtype.

    An infinite variance would normalize to 0, as if nothing had happened. (And a select
    would have to be kept, or done again, for the backward pass.)
    """
    return var + 0 * lax.stop_gradient(var)


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
