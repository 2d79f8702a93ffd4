"""EvoNorm-S0: normalization and activation in one."""

import functools

import jax
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm.core.affine import affine
from jaxnorm.core.axes import Axes, align_mask, one_axis
from jaxnorm.core.collectives import MappedAxis
from jaxnorm.core.dtypes import accumulation_dtype
from jaxnorm.core.masks import keep_usable
from jaxnorm.core.measure import MOMENTS_NAME, inverse_std, measure_alone
from jaxnorm.core.parameters import real_parameter
from jaxnorm.core.reduction import Blocks, Reduction
from jaxnorm.core.validation import check_epsilon, check_inexact, check_real
from jaxnorm.sample.group_norm import group_axes, group_length


def evo_norm_s0(
    x: Inexact[Array, "batch ..."],
    v: Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None,
    bias: Inexact[Array, "..."] | None,
    *,
    num_groups: int = 32,
    epsilon: float = 1e-5,
    reduction_axes: Axes | None = None,
    feature_axes: Axes = -1,
    mask: Shaped[Array, "..."] | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Gates each element, and divides by its group's standard deviation.

    It stands for a normalization and the activation after it. The feature axis is cut
    into groups of adjacent features. With the biased variance over a group and all
    other axes but the first, which is the batch::

        y = x * sigmoid(v * x) / sqrt(var + epsilon) * scale + bias

    The mean is not subtracted from x, but takes a pass of its own in the variance, so
    that a large one costs no accuracy. What is kept for the backward pass is x, and one
    mean and variance for each group of each example.

    Args:
      x: Input of shape (batch, ...); floating. Statistics are computed in float32 or
        wider.
      v: (features,); or the rank of x with 1 where shared; or a scalar. The paper
        starts it at 1.
      scale: (features,); or the rank of x with 1 where shared; 1 where None.
      bias: Likewise; 0 where None.
      num_groups: Into how many groups to cut the features; divides their number.
      epsilon: Added to the variance; at least 0.
      reduction_axes: As in `jaxnorm.group_norm`.
      feature_axes: The one feature axis.
      mask: As in `jaxnorm.layer_norm`: what is masked and not finite comes out as
        `bias`, and so does a group of which no element counts.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If an array holds integers or complex numbers.
      ValueError: If the groups do not divide the features, a shape or an axis does not
        fit, `reduction_axes` lack the feature axis or, without these, it is the first,
        or epsilon is negative.

    Reference:
      Liu et al., 2020, Evolving Normalization-Activation Layers, layer EvoNorm-S0
      (https://arxiv.org/abs/2004.02967).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0, 3.0, -1.0, -3.0]])
      >>> one, zero = jnp.ones(4), jnp.zeros(4)
      >>> jaxnorm.evo_norm_s0(x, one, one, zero, num_groups=2).round(1)
      Array([[ 0.7,  2.9, -0.3, -0.1]], dtype=float32)
    """
    x = check_inexact(x, "x")
    epsilon = check_epsilon(epsilon)
    feature_axis = one_axis(feature_axes, x.ndim)
    features = (feature_axis,)
    space = group_axes(reduction_axes, feature_axis, x.ndim)
    size = group_length(x.shape[feature_axis], num_groups)
    v = real_parameter(v, "v", x, features)
    scale, bias, result = affine(x, scale, bias, features, dtype)
    check_real("the sigmoid is a gate", x=x, scale=scale, bias=bias)
    mask = None if mask is None else align_mask(mask, x)
    across = MappedAxis.parse(None, None, x)
    reduction = Reduction(space, across, Blocks(feature_axis, size))
    # Else several arrays of the size of x would be kept, in float32.
    gate = jax.checkpoint(
        functools.partial(_gate, reduction, epsilon, result),
        policy=jax.checkpoint_policies.save_only_these_names(MOMENTS_NAME),
    )
    return gate(x, v, scale, bias, mask)


def _gate(
    reduction: Reduction,
    epsilon: float,
    result: DTypeLike,
    x: Array,
    v: Array,
    scale: Array,
    bias: Array,
    mask: Array | None,
) -> Array:
    wide = accumulation_dtype(result, x.dtype)
    x = x.astype(accumulation_dtype(x.dtype))  # once: its cotangents are added in that
    moments = measure_alone(x, reduction, mask=mask)
    # What has no valid element comes out as the bias.
    seen = None if mask is None else moments.count > 0
    rstd = inverse_std(moments.var, epsilon, moments.var.dtype, seen)
    rstd = reduction.spread(rstd).astype(wide)
    x = keep_usable(mask, x, x).astype(wide)
    y = x * jax.nn.sigmoid(v.astype(wide) * x) * (rstd * scale.astype(wide))
    return (y + bias.astype(wide)).astype(result)
