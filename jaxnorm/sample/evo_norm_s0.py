"""EvoNorm-S0: normalization and activation in one."""

import functools

import jax
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.align import align_parameter
from jaxnorm._core.arguments.axes import Axes, canonical_axis
from jaxnorm._core.arrays.dtypes import (
    accumulation_dtype,
    check_inexact,
    check_real,
    output_dtype,
)
from jaxnorm._core.arrays.safe_math import inverse_std
from jaxnorm._core.call import Call
from jaxnorm._core.reductions.masking import zero_masked_nonfinite
from jaxnorm._core.reductions.reduction import Blocks, Reduction, SingleValue
from jaxnorm._core.standardize import Standardization
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
    allow_single_value: SingleValue = False,
    dtype: DTypeLike | None = None,
) -> Array:
    """Gates each element, and divides it by the standard deviation of its group.

    It replaces a normalization and the activation function after it. The feature axis
    is split into groups of adjacent features. With the biased variance over a group and
    all other axes but the first, which is the batch::

        y = x * sigmoid(v * x) / sqrt(var + epsilon) * scale + bias

    The mean is not subtracted from x. The variance uses it in a separate pass, so that
    a large mean costs no accuracy. The backward pass keeps x, and one mean and variance
    for each group of each example.

    Args:
      x: Input of shape (batch, ...); floating. Statistics are computed in float32 or
        wider.
      v: (features,); or the rank of x with 1 where shared; or a scalar. Its
        initial value in the paper is 1.
      scale: (features,); or the rank of x with 1 where shared; 1 where None.
      bias: Same shapes as scale; 0 where None.
      num_groups: Number of groups of features; divides the number of features.
      epsilon: Added to the variance; at least 0. If both are 0, y is the bias.
      reduction_axes: As in `jaxnorm.group_norm`.
      feature_axes: The one feature axis.
      mask: As in `jaxnorm.layer_norm`: the output of masked elements that are not
        finite, and of groups without valid elements, is `bias`.
      allow_single_value: Whether each group may be a single value, whose variance is
        0: x * sigmoid(v * x) is then divided by sqrt(epsilon). "warn" allows it with
        a warning.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If an array holds integers or complex numbers.
      ValueError: If the groups do not divide the features, a shape or an axis does not
        fit, `reduction_axes` lack the feature axis or, without these, it is the first,
        epsilon is negative, or a variance is of a single value.

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
    feature_axis = canonical_axis(feature_axes, x.ndim)
    space = group_axes(reduction_axes, feature_axis, x.ndim)
    size = group_length(x.shape[feature_axis], num_groups)
    reduction = Reduction.over(x, space, blocks=Blocks(feature_axis, size))
    effect = "the variance is 0, and y is x * sigmoid(v * x) / sqrt(epsilon)"
    reduction.check_several(x, allow_single_value, effect=effect)
    dtype = output_dtype(dtype, x=x, scale=scale, bias=bias)
    spec = Standardization(reduction, epsilon, dtype)
    call = Call.parse(x, scale, bias, mask, (feature_axis,), spec)
    v = align_parameter(v, "v", x, call.features)
    check_real("the sigmoid is a gate", x=x, scale=call.scale, bias=call.bias)
    # Else several arrays of the size of x would be kept, in float32.
    return call.rematerialize(functools.partial(_gate, v))


def _gate(v: Array, call: Call) -> Array:
    """Returns `x * sigmoid(v * x) / std * scale + bias`."""
    wide = accumulation_dtype(call.spec.dtype, call.x.dtype)
    moments = call.own_moments()
    # The output of features without valid elements is the bias.
    nonempty = None if call.mask is None else moments.count > 0
    rstd = inverse_std(moments.var, call.spec.epsilon, moments.var.dtype, nonempty)
    rstd = call.reduction.broadcast_back(rstd).astype(wide)
    x = zero_masked_nonfinite(call.mask, call.x, call.x).astype(wide)
    gated = x * jax.nn.sigmoid(v.astype(wide) * x)
    y = gated * (rstd * call.scale.astype(wide)) + call.bias.astype(wide)
    return y.astype(call.spec.dtype)
