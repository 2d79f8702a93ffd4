"""Operations of the derivative rule that XLA should not merge.

XLA fuses operations into kernels. If two kernels need the same result, XLA either
computes it twice, or writes it to memory and reads it: an array of the size of x, often
in float32. The functions here write such operations so that XLA computes them twice.
"""

from jax import Array, lax
from jax.typing import DTypeLike

from jaxnorm._core.arrays.platforms import by_platform
from jaxnorm._core.moments.shifted_moments import ShiftedMoments
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.reductions.rows import NARROW, has_rows
from jaxnorm._core.reductions.staged_sums import broadcast_to_staged_sum


def has_narrow_rows(
    x: Array, scale: Array, reduction: Reduction, dtype: DTypeLike
) -> bool:
    """Returns whether rows of x are short, of this dtype, and scaled by element.

    For such rows XLA for GPUs writes `x - mean`, and its product with a cotangent, to
    memory, because it estimates that computing them twice takes longer.
    """
    along_row = scale.shape[-1] == x.shape[-1]
    return along_row and x.dtype == dtype and has_rows(x, reduction, NARROW)


def apart_from_forward_pass(
    x: Array, moments: ShiftedMoments, narrow: bool
) -> tuple[Array, ShiftedMoments]:
    """Returns x and its moments, so that the backward pass subtracts the mean again.

    Otherwise XLA would merge the subtractions of both passes, and keep a float32 array
    between the passes instead of x. XLA for GPUs merges them only if rows are narrow;
    the barrier is then on the mean. With a barrier on x there, an activation function
    that is fused with the backward pass would read x a second time.
    """
    x = by_platform(x, gpu=lambda x: x, default=lax.optimization_barrier)
    if not narrow:
        return x, moments
    shift, delta = by_platform(
        moments.shift,
        moments.delta,
        gpu=lambda *mean: lax.optimization_barrier(mean),
        default=lambda *mean: mean,
    )
    return x, moments._replace(shift=shift, delta=delta)


def times_slope_of_rows(
    centered: Array, rstd: Array, k: Array, tscale: Array, cov: Array
) -> Array:
    """Returns `centered * rstd * (tscale - k * cov)`, for narrow rows.

    Its transpose multiplies by the cotangent, and sums the product over each row for
    cov, and over all rows for tscale. On GPUs each sum is a kernel and has a product of
    its own, because the second kernel would read a shared product from memory.
    """

    def one_product(
        centered: Array, rstd: Array, k: Array, tscale: Array, cov: Array
    ) -> Array:
        return centered * (rstd * (tscale - k * cov))

    def two_products(
        centered: Array, rstd: Array, k: Array, tscale: Array, cov: Array
    ) -> Array:
        return (centered * rstd) * tscale - (centered * k) * (rstd * cov)

    return by_platform(
        centered, rstd, k, tscale, cov, gpu=two_products, default=one_product
    )


def between_reductions(
    value: Array, parameter: Array, x: Array, reduction: Reduction, masked: bool
) -> Array:
    """Returns `value`, so that the reductions of its transpose stay separate.

    In group and instance norm, the cotangent of x is reduced to one number for each
    example and feature, and these to one number for each feature, the gradient of the
    parameter. XLA for GPUs would merge the two reductions into one, for which it would
    write the float32 product of x and the cotangent to memory. A barrier prevents this.
    The first reduction is a staged sum.
    """
    # Compares shapes for equality, because symbolic sizes have no order.
    if (1,) * x.ndim != parameter.shape != value.shape != x.shape:
        value = lax.optimization_barrier(value)
    return broadcast_to_staged_sum(value, x, reduction.axes, masked)
