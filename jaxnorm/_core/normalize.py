"""Normalization with given statistics, and its inverse, differentiated by JAX."""

from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact

from jaxnorm._core.arguments.align import align, align_affine
from jaxnorm._core.arguments.axes import Axes, canonical_axes
from jaxnorm._core.arguments.validation import check_epsilon
from jaxnorm._core.arrays.dtypes import (
    accumulation_dtype,
    check_inexact,
    check_real,
    output_dtype,
    real_dtype,
)
from jaxnorm._core.arrays.safe_math import inverse_std
from jaxnorm._core.reductions.masking import zero_masked


def normalize(
    x: Inexact[Array, "..."],
    mean: Inexact[Array, "..."],
    var: Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    epsilon: float = 1e-5,
    feature_axes: Axes = -1,
    dtype: DTypeLike | None = None,
) -> Array:
    """Normalizes x with given statistics, wherever they come from.

    The formula is::

        y = (x - mean) / sqrt(var + epsilon) * scale + bias

    computed in float32 or wider, and differentiated in all five arrays. To normalize x
    with its own statistics, `jaxnorm.batch_norm` is more exact and saves less for the
    backward pass.

    Args:
      x: Input of any shape; floating or complex.
      mean: Feature shape (sizes of the feature axes, ascending), or the rank of x with
        1 where it is shared.
      var: Same shapes as mean; real and non-negative.
      scale: Same shapes as mean; 1 where None.
      bias: Same shapes as mean; 0 where None.
      epsilon: Added to the variance; at least 0. If both are 0, y is the bias.
      feature_axes: The axis or axes that have their own statistics.
      dtype: Dtype of the result; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If x is an integer array, or the mean is complex and the result real.
      ValueError: If a shape does not fit, or epsilon is negative.

    Reference:
      Ioffe and Szegedy, 2015, Batch Normalization, algorithm 2
      (https://arxiv.org/abs/1502.03167).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0, 10.0], [3.0, 30.0]])
      >>> mean, var = jnp.array([1.0, 10.0]), jnp.array([4.0, 100.0])
      >>> jaxnorm.normalize(x, mean, var, epsilon=0.0)
      Array([[0., 0.],
             [1., 2.]], dtype=float32)
    """
    x = check_inexact(x, "x")
    features = canonical_axes(feature_axes, x.ndim)
    mean, var = _align_statistics(mean, var, x, features)
    result = output_dtype(dtype, x=x, scale=scale, bias=bias)
    scale, bias = align_affine(x, scale, bias, features)
    wide = accumulation_dtype(result, x.dtype)
    rstd = inverse_std(var, check_epsilon(epsilon), wide, None)
    return normalize_with(mean, rstd, x, scale, bias, None, result)


def denormalize(
    y: Inexact[Array, "..."],
    mean: Inexact[Array, "..."],
    var: Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    epsilon: float = 1e-5,
    feature_axes: Axes = -1,
    dtype: DTypeLike | None = None,
) -> Array:
    """Inverts `jaxnorm.normalize`, given the same arguments.

    The formula is::

        x = (y - bias) / scale * sqrt(var + epsilon) + mean

    computed in float32 or wider, and differentiated in all five arrays. It turns a
    prediction of a normalized quantity into one of the quantity itself.

    Args:
      y: Normalized input of any shape; floating or complex.
      mean: Feature shape (sizes of the feature axes, ascending), or the rank of y with
        1 where it is shared.
      var: Same shapes as mean; real and non-negative.
      scale: Same shapes as mean; 1 where None. Where it is 0, y does not depend on x,
        and the result is not finite.
      bias: Same shapes as mean; 0 where None.
      epsilon: The number that was added to the variance; at least 0.
      feature_axes: The axis or axes that have their own statistics.
      dtype: Dtype of the result; by default what y, scale and bias promote to.

    Returns:
      x, of the shape of y.

    Raises:
      TypeError: If y is an integer array, or the mean is complex and the result real.
      ValueError: If a shape does not fit, or epsilon is negative.

    Reference:
      Kim et al., 2022, Reversible Instance Normalization for Accurate Time-Series
      Forecasting against Distribution Shift, equation 3
      (https://openreview.net/forum?id=cGDAkQo1C0p).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> y = jnp.array([[0.0, 0.0], [1.0, 2.0]])
      >>> mean, var = jnp.array([1.0, 10.0]), jnp.array([4.0, 100.0])
      >>> jaxnorm.denormalize(y, mean, var, epsilon=0.0)
      Array([[ 1., 10.],
             [ 3., 30.]], dtype=float32)
    """
    y = check_inexact(y, "y")
    features = canonical_axes(feature_axes, y.ndim)
    mean, var = _align_statistics(mean, var, y, features)
    result = output_dtype(dtype, y=y, scale=scale, bias=bias)
    scale, bias = align_affine(y, scale, bias, features)
    wide = accumulation_dtype(result, y.dtype)
    std = jnp.sqrt(var.astype(real_dtype(wide)) + check_epsilon(epsilon))
    return denormalize_with(mean, std, y, scale, bias, result)


def denormalize_with(
    mean: Array, std: Array, y: Array, scale: Array, bias: Array, result: DTypeLike
) -> Array:
    """Returns `(y - bias) / scale * std + mean` of aligned arrays."""
    dtype = accumulation_dtype(result, y.dtype)
    _check_complex(mean, y, result)
    mean, std, y, scale, bias = (v.astype(dtype) for v in (mean, std, y, scale, bias))
    return ((y - bias) / scale * std + mean).astype(result)


def _check_complex(mean: Array, value: Array, result: DTypeLike) -> None:
    """Checks that no imaginary part of the mean is dropped.

    Raises:
      TypeError: If the mean is complex and the result real.
    """
    if jnp.iscomplexobj(mean) and not jnp.issubdtype(result, jnp.complexfloating):
        raise TypeError(
            f"the mean must be real for input of dtype {value.dtype}, got "
            f"{mean.dtype}, whose imaginary part a result of dtype "
            f"{jnp.dtype(result)} would lose. "
            "Make the input complex, or take the real part of the mean."
        )


def _align_statistics(
    mean: Array, var: Array, x: Array, features: tuple[int, ...]
) -> tuple[Array, Array]:
    """Returns mean and variance with the rank of x, checked to be inexact."""
    mean = align(mean, x, features, "mean")
    var = align(var, x, features, "var")
    check_real("it is a variance", var=check_inexact(var, "var"))
    return check_inexact(mean, "mean"), var


def normalize_with(
    mean: Array,
    rstd: Array,
    x: Array,
    scale: Array,
    bias: Array,
    valid: Array | None,
    result: DTypeLike,
) -> Array:
    """Returns `(x - mean) * rstd * scale + bias` of aligned arrays.

    The result is `bias` where x is not `valid` (see `masking.valid_or_finite`).
    """
    dtype = accumulation_dtype(result, x.dtype)
    _check_complex(mean, x, result)
    x = zero_masked(valid, x).astype(dtype)
    centered = zero_masked(valid, x - mean.astype(dtype))
    y = centered * (rstd.astype(dtype) * scale.astype(dtype)) + bias.astype(dtype)
    return y.astype(result)
