"""Roots, quotients and products that are safe at 0 and near overflow."""

import numpy as np
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike

from jaxnorm._core.arrays.dtypes import real_dtype
from jaxnorm._core.arrays.known import MaybeKnown, is_known
from jaxnorm._core.arrays.sharding import where


def inverse_std(
    var: Array, epsilon: float, dtype: DTypeLike, nonempty: MaybeKnown | None
) -> Array:
    """Returns 1 / sqrt(var + epsilon) in a dtype; 0 where `nonempty` is False.

    Also 0 where var and epsilon are both 0: x - mean is 0 there as well.

    It does not use rsqrt, whose derivative in JAX contains its cube, which underflows
    for standard deviations above 1e13.

    Args:
      var: Variance.
      epsilon: Added to the variance.
      dtype: Dtype of the result, or a complex dtype with its real part.
      nonempty: True where there are valid elements; None means everywhere.
    """
    square = var.astype(real_dtype(dtype)) + epsilon
    if epsilon == 0:
        positive = square != 0  # True for NaN, which thus propagates
        nonempty = positive if nonempty is None else nonempty & positive
    if nonempty is None:
        return 1 / jnp.sqrt(square)
    # Selected twice, so that no operation gives infinity.
    rstd = 1 / jnp.sqrt(where(nonempty, square, jnp.ones_like(square)))
    return where(nonempty, rstd, jnp.zeros_like(rstd))


def safe_sqrt(square: Array) -> Array:
    """Returns the square root; 0, with all derivatives 0, where it is below 1e-19."""
    zero = square < jnp.finfo(square.dtype).tiny  # False for NaN, which propagates
    # Selected before the root too: its slope at 0 is infinite, and 0 times that is NaN.
    positive = jnp.sqrt(jnp.where(zero, jnp.ones_like(square), square))
    return jnp.where(zero, jnp.zeros_like(positive), positive)


def real_inner_product(a: Array, b: Array) -> Array:
    """Returns Re(conj(a) b) of each pair of elements."""
    return a.real * b.real + a.imag * b.imag if jnp.iscomplexobj(a) else a * b


def safe_count(count: MaybeKnown) -> MaybeKnown:
    """Returns `count` with 1 in place of 0, as a divisor of sums that are 0 there."""
    if is_known(count):
        return np.maximum(count, 1)
    return jnp.where(count > 0, count, jnp.ones_like(count))


def nan_if_overflowed(var: Array) -> Array:
    """Returns `var`, with NaN where the sum of squares exceeded the range of its dtype.

    An infinite variance would silently normalize x to 0. (A select in place of this sum
    would have to be saved, or repeated, for the backward pass.)
    """
    return var + 0 * lax.stop_gradient(var)
