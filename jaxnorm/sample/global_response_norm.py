"""Global response normalization."""

from jax import Array
from jax import numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.axes import Axes, canonical_axes, space_axes
from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_inexact, output_dtype
from jaxnorm._core.arrays.rematerialization import MOMENTS_NAME
from jaxnorm._core.arrays.safe_math import real_inner_product, safe_count, safe_sqrt
from jaxnorm._core.call import Call
from jaxnorm._core.reductions.masking import zero_masked, zero_masked_nonfinite
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.standardize import Standardization


def global_response_norm(
    x: Inexact[Array, "batch ..."],
    scale: Inexact[Array, "..."] | None,
    bias: Inexact[Array, "..."] | None,
    *,
    epsilon: float = 1e-6,
    reduction_axes: Axes | None = None,
    feature_axes: Axes = -1,
    mask: Shaped[Array, "..."] | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Amplifies features whose norm over space is large compared with the others.

    The norm is over all axes but the first, which is the batch, and `feature_axes`; the
    mean is over `feature_axes`::

        norm = sqrt(sum(|x|^2))
        y = scale * x * norm / (mean(norm) + epsilon) + bias + x

    With scale and bias 0, as at the start of training, y = x. All derivatives of a norm
    of 0 are taken to be 0. The backward pass keeps x, and one number for each feature
    of each example.

    Args:
      x: Input of shape (batch, ...); floating or complex. Norms are computed in float32
        or wider.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared;
        1 where None.
      bias: Same shapes as scale; 0 where None.
      epsilon: Added to the mean of the norms; at least 0.
      reduction_axes: The axis or axes of the norms; by default all but the first,
        which is the batch, and `feature_axes`. For one example without a batch axis, as
        under `jax.vmap`, pass the spatial axes: (0, 1) of (height, width, features).
      feature_axes: The axis or axes of the features, which are compared.
      mask: Broadcasts to x. Booleans and integers (nonzero) say which elements count;
        floating values are non-negative weights of the squares, not differentiated.
        Masked elements do not affect norms, and features without valid elements do not
        affect the mean. The formula applies to them too; if they are not finite (or too
        large to be squared), the output is `bias`, with no gradient. The norms of an
        example without valid elements are 0.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If an array holds integers, or `dtype` is real for complex input.
      ValueError: If a shape or an axis does not fit, `reduction_axes` include a
        feature axis or, by default, the first axis is one, or epsilon is negative.

    Reference:
      Woo et al., 2023, ConvNeXt V2, section 4, equations 1 to 3 and algorithm 1
      (https://arxiv.org/abs/2301.00808).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[[3.0, 1.0], [4.0, 0.0]]])  # norms 5 and 1, mean 3
      >>> jaxnorm.global_response_norm(x, jnp.full(2, 3.0), jnp.zeros(2)).round()
      Array([[[18.,  2.],
              [24.,  0.]]], dtype=float32)
    """
    x = check_inexact(x, "x")
    features = canonical_axes(feature_axes, x.ndim)
    space = space_axes(reduction_axes, features, x.ndim)
    dtype = output_dtype(dtype, x=x, scale=scale, bias=bias)
    spec = Standardization(Reduction.over(x, space), epsilon, dtype)
    call = Call.parse(x, scale, bias, mask, features, spec)
    # Else x would be kept several times, in float32.
    return call.rematerialize(_global_response)


def _global_response(call: Call) -> Array:
    """Returns `x * (1 + scale * norm / mean(norm)) + bias`, with norms over space."""
    wide = accumulation_dtype(call.spec.dtype, call.x.dtype)
    mask, features = call.mask, call.features
    valid = zero_masked(mask, call.x)
    count, square = call.reduction.weighted_sums(
        real_inner_product(valid, valid), mask=mask
    )
    nonempty = jnp.broadcast_to(count > 0, square.shape).astype(square.dtype)
    part = nonempty / safe_count(jnp.sum(nonempty, features, keepdims=True))
    square, part = (checkpoint_name(value, MOMENTS_NAME) for value in (square, part))
    norm = safe_sqrt(square)
    mean = jnp.sum(norm * part, features, keepdims=True)
    mean = checkpoint_name(mean, MOMENTS_NAME) + call.spec.epsilon
    if call.spec.epsilon == 0:
        mean = jnp.where(mean == 0, jnp.ones_like(mean), mean)
    k = 1 + (norm / mean).astype(wide) * call.scale.astype(wide)
    x = zero_masked_nonfinite(mask, call.x, call.x).astype(wide)
    return (x * k + call.bias.astype(wide)).astype(call.spec.dtype)
