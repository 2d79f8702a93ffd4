"""Mean and variance of one batch, over axes and over devices: how they are computed.

The variance comes from one pass over x, and one collective, as the mean square of
`x - shift` less the square of its mean. With a shift near the mean nothing cancels; the
running mean is such a shift, at no cost, and the same on all devices.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, cast

import jax
from jax import Array, lax
from jax import numpy as jnp

from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm._core.arrays.rematerialization import tag_for_remat
from jaxnorm._core.arrays.safe_math import real_inner_product, safe_count
from jaxnorm._core.moments.approximate_mean import approximate_mean
from jaxnorm._core.moments.shifted_moments import (
    ShiftedMoments,
    mean_as_shift,
    moments_from_sums,
    round_last_bit,
    safe_shift,
)
from jaxnorm._core.reductions.masking import zero_masked
from jaxnorm._core.reductions.reduction import Reduction

_Arguments = ParamSpec("_Arguments")
_Compute = Callable[_Arguments, ShiftedMoments]


def _traced_once(
    *static: str,
) -> Callable[[_Compute[_Arguments]], _Compute[_Arguments]]:
    """Returns a decorator with which JAX traces layers of the same shapes once.

    The function is inlined, since XLA for TPUs makes more kernels of called functions.
    The count is added outside of jit, where it stays known.
    """

    def decorate(compute: _Compute[_Arguments]) -> _Compute[_Arguments]:
        jitted = jax.jit(compute, inline=True, static_argnames=static)

        @functools.wraps(compute)
        def wrapped(x: Array, reduction: Reduction, **options: Any) -> ShiftedMoments:
            moments: ShiftedMoments = jitted(x, reduction, **options)
            if options["mask"] is not None:
                return moments
            return moments._replace(count=reduction.unmasked_count(x))

        return cast(_Compute[_Arguments], wrapped)

    return decorate


@_traced_once("reduction", "use_fast_variance")
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
      reduction: The axes and devices to average over.
      mask: Aligned mask or weights, or None.
      shift: Subtracted before summing; has the rank of x, and is the same on all
        instances. 0 replaces a shift that is not finite, or whose square overflows.
      use_fast_variance: Whether to take one pass, which is exact to rounding while the
        shift is within a few standard deviations of the mean. Otherwise a first pass,
        with its own collective, finds the mean, which is then the shift.
    """
    dtype = accumulation_dtype(x.dtype)
    shift = lax.stop_gradient(safe_shift(shift.astype(dtype)))
    # Before any arithmetic, so that a masked NaN reaches no derivative either.
    x = zero_masked(mask, x).astype(dtype)
    if not use_fast_variance:
        # Not relative to the given shift: far from the mean, that would round x away.
        # And not differentiated: nothing below depends on the choice of the shift.
        count, total = reduction.weighted_sums(lax.stop_gradient(x), mask=mask)
        shift = tag_for_remat(mean_as_shift(count, total, shift))
    return _moments_with_shift(shift, x, reduction, mask)


@_traced_once("reduction")
def compute_own_moments(
    x: Array, reduction: Reduction, *, mask: Array | None
) -> ShiftedMoments:
    """Returns the moments of x, given no estimate of its mean."""
    dtype = accumulation_dtype(x.dtype)
    if mask is not None:  # a part may have no valid element
        shift = jnp.zeros((1,) * x.ndim, dtype)
        return compute_moments(
            x, reduction, mask=mask, shift=shift, use_fast_variance=False
        )
    shift = approximate_mean(x, reduction)
    shift = tag_for_remat(round_last_bit(shift))
    return _moments_with_shift(shift, x.astype(dtype), reduction, None)


def _moments_with_shift(
    shift: Array, x: Array, reduction: Reduction, mask: Array | None
) -> ShiftedMoments:
    """Returns the moments of x, given a shift, by one pass over x."""
    deviation = x - reduction.broadcast_back(shift)
    sums = reduction.weighted_sums(
        deviation,
        real_inner_product(deviation, deviation),
        mask=mask,
    )
    return moments_from_sums(shift, *tag_for_remat(sums))


@_traced_once("reduction")
def compute_mean_square(
    x: Array, reduction: Reduction, *, mask: Array | None
) -> ShiftedMoments:
    """Returns moments about 0: the mean square in place of the variance.

    Where squares overflow it is infinite, not NaN: making it NaN would use it a second
    time, for which XLA for GPUs would split RMS norm into two more kernels.
    """
    dtype = accumulation_dtype(x.dtype)
    x = zero_masked(mask, x).astype(dtype)
    sums = reduction.weighted_sums(real_inner_product(x, x), mask=mask)
    count, power = tag_for_remat(sums)
    zero = jnp.zeros((1,) * x.ndim, dtype)
    return ShiftedMoments(count, zero, zero, power / safe_count(count))
