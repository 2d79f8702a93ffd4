"""Filter response normalization."""

import functools

import jax
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm.core.affine import affine
from jaxnorm.core.axes import Axes, align_mask, canonical_axes, space_axes
from jaxnorm.core.collectives import MappedAxis
from jaxnorm.core.dtypes import accumulation_dtype
from jaxnorm.core.masks import usable
from jaxnorm.core.measure import (
    MOMENTS_NAME,
    inverse_std,
    measure_power,
    nan_if_overflown,
)
from jaxnorm.core.normalize import normalize_with
from jaxnorm.core.parameters import real_parameter
from jaxnorm.core.reduction import Reduction
from jaxnorm.core.validation import check_epsilon, check_inexact, check_real


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

    With the mean over all axes but the first, which is the batch, and `feature_axes`,
    and with the activation that belongs to it, a thresholded linear unit (TLU)::

        y = x / sqrt(mean(|x|^2) + epsilon + |learned_epsilon|) * scale + bias
        z = max(y, threshold)

    The mean of x is not subtracted. What is kept for the backward pass is x, and one
    number for each feature of each example.

    Args:
      x: Input of shape (batch, ...); floating, or complex without a threshold.
        Statistics are computed in float32 or wider.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared;
        1 where None.
      bias: Likewise; 0 where None.
      threshold: Likewise, or a scalar; real. None: no TLU, the result is y.
      epsilon: Added to the mean square; at least 0.
      learned_epsilon: Likewise a scalar or as scale; real, its sign has no effect. For
        layers without space, or with little, where a small epsilon makes y close to
        the sign of x; the paper starts it at 1e-4.
      reduction_axes: The axis or axes to average over; by default all but the first,
        which is the batch, and `feature_axes`. For one example without an axis for it,
        under `jax.vmap` for instance, those of space: (0, 1) of (height, width,
        features).
      feature_axes: The axis or axes that keep their own statistics.
      mask: As in `jaxnorm.layer_norm`. Where `bias` comes out (what is masked and not
        finite, a feature of which no element counts) it passes the TLU like any other
        value.
      dtype: Dtype of the result; by default what x, scale and bias promote to.

    Returns:
      z, of the shape of x.

    Raises:
      TypeError: If an array holds integers, x, scale or bias are complex with a
        threshold, threshold or learned_epsilon are complex, or `dtype` is real for
        complex input.
      ValueError: If a shape or an axis does not fit, `reduction_axes` has a
        feature axis or, without these, the first axis is one, or epsilon is negative.

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
    epsilon = check_epsilon(epsilon)
    features = canonical_axes(feature_axes, x.ndim)
    space = space_axes(reduction_axes, features, x.ndim)
    scale, bias, result = affine(x, scale, bias, features, dtype)
    if threshold is not None:
        check_real("a threshold orders values", x=x, scale=scale, bias=bias)
        threshold = real_parameter(threshold, "threshold", x, features)
    if learned_epsilon is not None:
        learned_epsilon = real_parameter(
            learned_epsilon, "learned_epsilon", x, features
        )
    mask = None if mask is None else align_mask(mask, x)
    reduction = Reduction(space, MappedAxis.parse(None, None, x))
    # Else several arrays of the size of x would be kept, in float32.
    respond = jax.checkpoint(
        functools.partial(_respond, reduction, epsilon, result),
        policy=jax.checkpoint_policies.save_only_these_names(MOMENTS_NAME),
    )
    return respond(x, scale, bias, threshold, learned_epsilon, mask)


def _respond(
    reduction: Reduction,
    epsilon: float,
    result: DTypeLike,
    x: Array,
    scale: Array,
    bias: Array,
    threshold: Array | None,
    learned_epsilon: Array | None,
    mask: Array | None,
) -> Array:
    wide = accumulation_dtype(result, x.dtype)
    x = x.astype(accumulation_dtype(x.dtype))  # once: its cotangents are added in that
    moments = measure_power(x, reduction, mask=mask)
    power = moments.var
    if learned_epsilon is not None:
        power = power + jnp.abs(learned_epsilon).astype(power.dtype)
    power = nan_if_overflown(power)
    # What has no valid element comes out as the bias.
    seen = None if mask is None else moments.count > 0
    rstd = inverse_std(power, epsilon, wide, seen)
    valid = usable(mask, x)
    y = normalize_with(jnp.zeros_like(power), rstd, x, scale, bias, valid, wide)
    if threshold is not None:
        y = jnp.maximum(y, threshold.astype(wide))
    return y.astype(result)
