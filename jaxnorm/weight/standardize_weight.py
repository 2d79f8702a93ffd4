"""Weight standardization, plain and scaled."""

import math

from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact

from jaxnorm._core.arguments.align import align
from jaxnorm._core.arguments.axes import Axes, canonical_axes, other_axes, sizes
from jaxnorm._core.arguments.validation import check_epsilon
from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_inexact, output_dtype
from jaxnorm._core.reductions.collectives import MappedAxes
from jaxnorm._core.reductions.reduction import Reduction, SingleValue
from jaxnorm.weight.unit import unit_of

_LEAST_FAN_IN_DEVIATION = 1e-2  # of scaled weight standardization, as published


def standardize_weight(
    w: Inexact[Array, "..."],
    *,
    feature_axes: Axes = -1,
    epsilon: float = 1e-6,
    gain: Inexact[Array, "..."] | None = None,
    allow_single_value: SingleValue = False,
    dtype: DTypeLike | None = None,
) -> Array:
    """Standardizes the weight of each output unit over its inputs.

    The mean and the biased variance are over all axes but `feature_axes`, which have
    fan_in elements in total::

        w_hat = (w - mean) / sqrt(var + epsilon)                    gain is None
        w_hat = gain (w - mean) / sqrt(max(fan_in var, 1e-4))       scaled

    The scaled form preserves the variance of activations in networks without other
    normalizers. Multiply the output of the activation function by its own gain
    (1.7139588594 for relu). The computation takes two passes, in float32 or wider, and
    gradients flow through mean and var.

    For grouped convolutions, fan_in counts the inputs of one group. HWIO kernels need
    no special treatment, because their axis I has the size of one group.

    Args:
      w: Weight of any shape, floating or complex, output features last (HWIO).
      feature_axes: The axis or axes of the output units.
      epsilon: Added to the variance; at least 0. No effect in the scaled form.
      gain: Selects the scaled form. It has the feature shape (sizes of the feature
        axes, ascending), or the rank of w with size 1 on shared axes; initially 1.
      allow_single_value: Whether fan_in may be 1, which makes the result 0 for every w.
        "warn" allows it with a warning.
      dtype: Dtype of the result; by default what w and gain promote to.

    Returns:
      The standardized weight, of the shape of w; 0 where a unit's weight is constant.

    Raises:
      TypeError: If w or gain is an integer array.
      ValueError: If gain or an axis does not fit, epsilon is negative, or fan_in is 1.

    Reference:
      Qiao et al., 2019, Weight Standardization, the definition of W hat
      (https://arxiv.org/abs/1903.10520), with epsilon inside the root; Brock, De and
      Smith, 2021, Characterizing signal propagation to close the performance gap in
      unnormalized ResNets, scaled weight standardization
      (https://arxiv.org/abs/2101.08692), with the 1e-4 of its authors' code.

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> w = jnp.array([[1.0, 10.0], [3.0, 10.0]])
      >>> jaxnorm.standardize_weight(w).round(3)
      Array([[-1.,  0.],
             [ 1.,  0.]], dtype=float32)
      >>> jaxnorm.standardize_weight(w, gain=jnp.ones(2)).round(3)
      Array([[-0.707,  0.   ],
             [ 0.707,  0.   ]], dtype=float32)
    """
    w = check_inexact(w, "w")
    epsilon = check_epsilon(epsilon)
    features = canonical_axes(feature_axes, w.ndim)
    axes = other_axes(features, w.ndim)
    Reduction(axes, MappedAxes.none()).check_several(
        w,
        allow_single_value,
        fix="Do not standardize this weight, or choose other feature_axes",
        effect="the standardized weight is 0 for every weight",
    )
    if gain is not None:
        gain = align(check_inexact(gain, "gain"), w, features, "gain")
    result = output_dtype(dtype, w=w, gain=gain)
    wide = accumulation_dtype(result, w.dtype)

    least = math.sqrt(epsilon) if gain is None else _LEAST_FAN_IN_DEVIATION
    unit, reciprocal = unit_of(w.astype(wide), axes, least)
    centered = w.astype(wide) * reciprocal.astype(wide)
    for _ in range(2):  # the second pass removes the rounding error of the first mean
        centered = centered - jnp.mean(centered, axes, keepdims=True)
    square = (centered * jnp.conj(centered)).real
    var = jnp.mean(square, axes, keepdims=True)
    least_square = (least * reciprocal) ** 2
    if gain is None:
        divisor = var + least_square
    else:
        fan_in = math.prod(sizes(w.shape, axes))
        divisor = jnp.maximum(fan_in * var, least_square)
        centered = centered * gain.astype(wide)
    # Only a constant unit has such a small divisor, and its centered weight is 0
    # already. Derivatives contain powers of the inverse, which could overflow.
    constant = divisor < float(jnp.finfo(divisor.dtype).eps) ** 3
    inverse = lax.rsqrt(jnp.where(constant, jnp.ones_like(divisor), divisor))
    if least:
        # Finite, because 0 times infinity is NaN, and with room for cotangents.
        most = float(jnp.finfo(divisor.dtype).max) / 2**16
        inverse = jnp.where(constant, jnp.minimum(unit / least, most), inverse)
    return (centered * inverse.astype(wide)).astype(result)
