"""Standardization of x by its moments, with a custom derivative rule.

Differentiating the forward pass operation by operation would save several arrays of the
size of x. The rule writes the tangent out. With k = scale * rstd, and M the weighted
mean over the reduced axes and devices::

    y  = k ((x - shift) - delta) + bias
    ty = k tx + xhat (tscale - k M[Re(conj(xhat) tx)]) + (tbias - k M[tx])

The tangent is linear in the input tangents. Its transpose, the backward pass, has two
reductions over x and one collective, which also give the gradients of scale and bias.
As a `jax.custom_jvp`, the rule supports forward mode, reverse mode and any order of
both, and JAX's transposition rules handle its collectives. The linear part runs under
`jax.checkpoint`, so only x itself and small vectors are saved for the backward pass.

XLA fuses the backward pass with the backward passes of neighboring layers, which
determines the speed of a network. So an optimization barrier is used at most for x or
its mean, never for a cotangent; see `fusion.py`.
"""

import dataclasses
import functools
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm._core.arrays.dtypes import accumulation_dtype, round_to
from jaxnorm._core.arrays.safe_math import inverse_std, real_inner_product, safe_count
from jaxnorm._core.fusion import (
    apart_from_forward_pass,
    between_reductions,
    has_narrow_rows,
    times_slope_of_rows,
)
from jaxnorm._core.moments.shifted_moments import ShiftedMoments, rounding_noise
from jaxnorm._core.reductions.collectives import pcast_stacked
from jaxnorm._core.reductions.masking import (
    apply_weights,
    valid_or_finite,
    zero_masked,
    zero_masked_nonfinite,
)
from jaxnorm._core.reductions.reduction import Reduction


@dataclasses.dataclass(frozen=True)
class Standardization:
    """The static arguments of `standardize`.

    Attributes:
      reduction: Reduction that gives the moments of x.
      epsilon: Added to the variance.
      dtype: Dtype of the output.
      center: Whether to subtract the mean. If False, the moments are about 0.
      rescale: Whether to divide by the standard deviation.
      round_before_scale: Whether to round the normalized x to the dtype of x before it
        is scaled. Derivatives ignore this rounding.
      rematerialized: Whether `jax.checkpoint` recomputes x in the backward pass instead
        of keeping it. A barrier would then write x to memory.
      debugged: Whether JAX's debuggers check the result of each operation. It is
        static, so that a trace without debuggers is not reused.
    """

    reduction: Reduction
    epsilon: float
    dtype: DTypeLike
    center: bool = True
    rescale: bool = True
    round_before_scale: bool = False
    rematerialized: bool = False
    debugged: bool = False


def standardize(
    spec: Standardization,
    x: Array,
    moments: ShiftedMoments,
    scale: Array,
    bias: Array,
    mask: Array | None,
) -> Array:
    """Returns `scale * (x - mean) / sqrt(var + epsilon) + bias`.

    The moments must be exactly those of x over `spec.reduction` (under the mask). The
    rule includes their derivative in the derivative of x, and would silently be wrong
    for other moments. Pass them without stop_gradient, so that higher derivatives are
    right.

    Args:
      spec: Static arguments.
      x: Input.
      moments: Moments of x, computed by `spec.reduction`.
      scale: Factor of the normalized input; has the rank of x, and size 1 on shared
        axes.
      bias: Added to the result; has the rank of x, and size 1 on shared axes.
      mask: Aligned mask or weights, not differentiated, or None. Masked elements are
        normalized as well. If they are not finite, or if there are no valid elements,
        the result is `bias`.
    """
    if mask is None:  # the count is known and is recomputed where needed
        moments = moments._replace(count=None)  # type: ignore[arg-type]
    if jax.debug_nans.value or jax.debug_infs.value:
        spec = dataclasses.replace(spec, debugged=True)
    return _compiled_once(spec, x, moments, scale, bias, mask)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _standardize(
    spec: Standardization,
    x: Array,
    moments: ShiftedMoments,
    scale: Array,
    bias: Array,
    mask: Array | None,
) -> Array:
    dtype = accumulation_dtype(spec.dtype, x.dtype)
    scale, rstd = scale.astype(dtype), _rstd(spec, moments, mask, dtype)
    centered = _center(spec, x, moments, mask, dtype)
    if spec.round_before_scale:
        scaled = round_to(centered * rstd, x.dtype) * scale
    else:
        scaled = centered * (scale * rstd)
    return (scaled + bias.astype(dtype)).astype(spec.dtype)


# With jit, layers of the same shapes are traced and differentiated only once.
# Inlined, as `compute_moments`.
_compiled_once = jax.jit(_standardize, inline=True, static_argnums=0)


@_standardize.defjvp
def _standardize_jvp(
    spec: Standardization, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Array, Array]:
    x, moments, scale, _, mask = primals
    tx, _, tscale, tbias, _ = tangents
    y = _standardize(spec, *primals)
    # Only the arguments of the checkpointed part are saved; it casts them by itself.
    # prevent_cse=True would put a barrier on all of its operands, the cotangent among
    # them, which then could not be fused with the operation that computes it.
    tangent = jax.checkpoint(functools.partial(_tangent, spec), prevent_cse=False)
    return y, tangent((x, moments, scale, mask), (tx, tscale, tbias))


def _tangent(
    spec: Standardization,
    primals: tuple[Array, ShiftedMoments, Array, Array | None],
    tangents: tuple[Array, Array, Array],
) -> Array:
    x, moments, scale, mask = primals
    dtype = accumulation_dtype(spec.dtype, x.dtype)
    narrow = spec.center and has_narrow_rows(x, scale, spec.reduction, dtype)
    # Not under JAX's debuggers, which would look at what the mask hides.
    if not (spec.debugged or spec.rematerialized):
        x, moments = apart_from_forward_pass(x, moments, narrow)
    tx, tscale, tbias = (tangent.astype(dtype) for tangent in tangents)
    rstd = _rstd(spec, moments, mask, dtype)
    k = scale.astype(dtype) * rstd
    centered = _center(spec, x, moments, mask, dtype)

    tmean, cov = _moment_tangents(spec, moments, mask, centered, tx)
    tmean, cov, tscale, tbias = pcast_stacked((tmean, cov, tscale, tbias), like=k)
    cov = rstd * spec.reduction.broadcast_back(cov)
    offset = -k * spec.reduction.broadcast_back(tmean)
    separate = functools.partial(
        between_reductions, x=x, reduction=spec.reduction, masked=mask is not None
    )
    # The backward pass sums centered * dy and multiplies the sums by rstd; xhat * dy
    # would be written to memory on GPUs before it is summed.
    if narrow:
        tscale, cov, offset, tbias = pcast_stacked((tscale, cov, offset, tbias), like=x)
        product = times_slope_of_rows(centered, rstd, k, tscale, cov)
    else:
        slope = rstd * (tscale - k * cov)
        slope, offset, tbias = pcast_stacked((slope, offset, tbias), like=x)
        product = centered * separate(slope, tscale)
    if mask is None:
        offset = offset + tbias
    y = k * tx + product + separate(offset, tbias)
    if mask is not None:
        # All at once, so that what the backward pass sums is selected once.
        y = zero_masked_nonfinite(mask, x, y) + tbias
    return y.astype(spec.dtype)


def _moment_tangents(
    spec: Standardization,
    moments: ShiftedMoments,
    mask: Array | None,
    centered: Array,
    tx: Array,
) -> tuple[Array, Array]:
    """Returns M[tx] and M[Re(conj(centered) tx)], or 0 for a moment that is unused."""
    products = []
    if spec.center:
        products.append(tx)
    if spec.rescale:
        products.append(real_inner_product(centered, tx))
    sums = spec.reduction.sums(*(apply_weights(mask, product) for product in products))
    count = moments.count
    if mask is None:  # see `standardize`
        count = spec.reduction.unmasked_count(centered)
    count = safe_count(count)
    means = [total / count.astype(total.dtype) for total in sums]

    zero = jnp.zeros((1,) * tx.ndim, tx.dtype)
    tmean = means.pop(0) if spec.center else zero
    if not spec.rescale:
        return tmean, zero
    # A variance clamped to its rounding floor has zero derivative.
    square = real_inner_product(moments.delta, moments.delta)
    follows = moments.var > rounding_noise(square)
    cov = jnp.where(follows, means[0], jnp.zeros_like(means[0]))
    return tmean, cov.astype(tx.dtype)


def _center(
    spec: Standardization,
    x: Array,
    moments: ShiftedMoments,
    mask: Array | None,
    dtype: DTypeLike,
) -> Array:
    """Returns `(x - shift) - delta`; 0 where x is masked and not finite."""
    valid = valid_or_finite(mask, x)
    x = zero_masked(valid, x).astype(dtype)
    if not spec.center:
        return x
    shift = spec.reduction.broadcast_back(moments.shift).astype(dtype)
    delta = spec.reduction.broadcast_back(moments.delta).astype(dtype)
    return zero_masked(valid, (x - shift) - delta)


def _rstd(
    spec: Standardization,
    moments: ShiftedMoments,
    mask: Array | None,
    dtype: DTypeLike,
) -> Array:
    if not spec.rescale:
        return jnp.ones((1,) * moments.var.ndim, dtype)
    nonempty = None if mask is None else moments.count > 0
    rstd = inverse_std(moments.var, spec.epsilon, moments.var.dtype, nonempty)
    return spec.reduction.broadcast_back(rstd).astype(dtype)
