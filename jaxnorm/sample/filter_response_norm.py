"""Filter response normalization."""

import functools

from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.align import align_parameter
from jaxnorm._core.arguments.axes import Axes, canonical_axes, space_axes
from jaxnorm._core.arrays.dtypes import (
    accumulation_dtype,
    check_inexact,
    check_real,
    output_dtype,
)
from jaxnorm._core.arrays.safe_math import inverse_std, nan_if_overflowed
from jaxnorm._core.call import Call
from jaxnorm._core.normalize import normalize_with
from jaxnorm._core.reductions.masking import valid_or_finite
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.standardize import Standardization


def filter_response_norm(
    x: Inexact[Array, "batch ..."],
    scale: Inexact[Array, "..."] | None,
    bias: Inexact[Array, "..."] | None,
    threshold: Inexact[Array, "..."] | None,
    *,
    epsilon: float = 1e-6,
    learned_epsilon: Inexact[Array, "..."] | None = None,
    reduction_axes: Axes | None = None,
    feature_axes: Axes = -1,
    mask: Shaped[Array, "..."] | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Divides each feature of each example by its root mean square over space.

    The mean is over all axes but the first, which is the batch, and `feature_axes`. A
    thresholded linear unit (TLU) is the activation function::

        y = x / sqrt(mean(|x|^2) + epsilon + |learned_epsilon|) * scale + bias
        z = max(y, threshold)

    The mean of x is not subtracted. The backward pass keeps x, and one number for
    each feature of each example.

    Args:
      x: Input of shape (batch, ...); floating, or complex without a threshold.
        Statistics are computed in float32 or wider.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared;
        1 where None.
      bias: Same shapes as scale; 0 where None.
      threshold: Same shapes as scale, or a scalar; real. None: without a TLU, the
        result is y.
      epsilon: Added to the mean square; at least 0.
      learned_epsilon: Same shapes as threshold; real, its sign has no effect. For
        layers with few spatial positions, where a small epsilon makes y close to the
        sign of x; its initial value in the paper is 1e-4.
      reduction_axes: The axis or axes to average over; by default all but the first,
        which is the batch, and `feature_axes`. For one example without a batch axis, as
        under `jax.vmap`, pass the spatial axes: (0, 1) of (height, width, features).
      feature_axes: The axis or axes that keep their own statistics.
      mask: As in `jaxnorm.layer_norm`. The TLU also applies where y is `bias` (masked
        elements that are not finite, features without valid elements).
      dtype: Dtype of the result; by default what x, scale and bias promote to.

    Returns:
      z, of the shape of x.

    Raises:
      TypeError: If an array holds integers, x, scale or bias are complex with a
        threshold, threshold or learned_epsilon are complex, or `dtype` is real for
        complex input.
      ValueError: If a shape or an axis does not fit, `reduction_axes` include a
        feature axis or, by default, the first axis is one, or epsilon is negative.

    Reference:
      Singh and Krishnan, 2020, Filter Response Normalization Layer, section 3
      (https://arxiv.org/abs/1911.09737).

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[[3.0], [-3.0]]])  # one example, two positions
      >>> scale, bias, threshold = jnp.ones(1), jnp.zeros(1), jnp.full(1, -0.5)
      >>> normalize = jax.jit(jaxnorm.filter_response_norm)
      >>> normalize(x, scale, bias, threshold).round(3)
      Array([[[ 1. ],
              [-0.5]]], dtype=float32)
    """
    x = check_inexact(x, "x")
    features = canonical_axes(feature_axes, x.ndim)
    space = space_axes(reduction_axes, features, x.ndim)
    dtype = output_dtype(dtype, x=x, scale=scale, bias=bias)
    spec = Standardization(Reduction.over(x, space), epsilon, dtype, center=False)
    call = Call.parse(x, scale, bias, mask, features, spec)
    if threshold is not None:
        check_real("a threshold orders values", x=x, scale=call.scale, bias=call.bias)
        threshold = align_parameter(threshold, "threshold", x, features)
    if learned_epsilon is not None:
        learned_epsilon = align_parameter(
            learned_epsilon, "learned_epsilon", x, features
        )
    # Else several arrays of the size of x would be kept, in float32.
    compute = functools.partial(_filter_response, threshold, learned_epsilon)
    return call.rematerialize(compute)


def _filter_response(
    threshold: Array | None, learned_epsilon: Array | None, call: Call
) -> Array:
    """Returns `max(x / rms * scale + bias, threshold)`; without a max if None."""
    wide = accumulation_dtype(call.spec.dtype, call.x.dtype)
    moments = call.own_moments()
    power = moments.var
    if learned_epsilon is not None:
        power = power + jnp.abs(learned_epsilon).astype(power.dtype)
    power = nan_if_overflowed(power)
    # The output of features without valid elements is the bias.
    nonempty = None if call.mask is None else moments.count > 0
    y = normalize_with(
        jnp.zeros_like(power),
        inverse_std(power, call.spec.epsilon, wide, nonempty),
        call.x,
        call.scale,
        call.bias,
        valid_or_finite(call.mask, call.x),
        wide,
    )
    if threshold is not None:
        y = jnp.maximum(y, threshold.astype(wide))
    return y.astype(call.spec.dtype)
