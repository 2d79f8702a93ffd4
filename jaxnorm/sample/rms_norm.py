"""Root mean square layer normalization."""

from collections.abc import Sequence

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.axes import Axes, canonical_axes
from jaxnorm._core.arguments.validation import check_flags
from jaxnorm._core.arrays.dtypes import check_inexact, output_dtype
from jaxnorm._core.call import Call
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.standardize import Standardization


def rms_norm(
    x: Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    *,
    reduction_axes: Axes = -1,
    feature_axes: Axes = -1,
    epsilon: float = 1e-6,
    scale_offset: float = 0.0,
    round_before_scale: bool = False,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Divides each example by the root mean square of its features.

    With the mean over `reduction_axes`, which is not subtracted::

        y = x / sqrt(mean(|x|^2) + epsilon) * (scale_offset + scale)

    computed in float32 or wider up to and including the product with scale; only y is
    rounded to a narrower dtype, unless `round_before_scale`. The backward pass keeps x,
    and one number for each example. If the sum of squares exceeds the range of the
    dtype, y is 0.

    To average also over the positions of a segment (a graph of a batch, or a sequence
    of a packed row), use `jaxnorm.segment_rms_norm`.

    Args:
      x: Input of any shape; floating or complex.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared.
        If None, y is not scaled, whatever the offset.
      reduction_axes: The axis or axes to average over.
      feature_axes: The axis or axes of scale.
      epsilon: Added to the mean square; at least 0. If both are 0, y is 0.
      scale_offset: 1 for models whose stored scale is the distance from 1, so that
        weight decay pulls towards the identity; 0 for all other models.
      round_before_scale: Whether x / sqrt(...) is rounded to the dtype of x before the
        product with scale, as in Hugging Face's Llama: in bfloat16 the results are
        equal to the bit. Derivatives ignore this rounding.
      mask: As in `jaxnorm.layer_norm`; examples without valid elements are 0.
      axis_name: As in `jaxnorm.layer_norm`: one collective forward and one backward.
      axis_index_groups: As in `jaxnorm.layer_norm`.
      dtype: Dtype of y; by default what x and scale promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If x is an integer array, `dtype` is real for complex input, or
        `round_before_scale` is not a Python bool.
      ValueError: If a shape, an axis or the groups do not fit, or epsilon is negative.
      NameError: If `axis_name` is not bound.

    Reference:
      Zhang and Sennrich, 2019, Root Mean Square Layer Normalization, equation 4
      (https://arxiv.org/abs/1910.07467).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[2.0, 2.0], [3.0, -3.0]])
      >>> jaxnorm.rms_norm(x, jnp.zeros(2), scale_offset=1.0).round(2)
      Array([[ 1.,  1.],
             [ 1., -1.]], dtype=float32)
    """
    x = check_inexact(x, "x")
    check_flags(round_before_scale=round_before_scale)
    features = canonical_axes(feature_axes, x.ndim)
    reduced = canonical_axes(reduction_axes, x.ndim, "reduction_axes")
    dtype = output_dtype(dtype, x=x, scale=scale)
    spec = Standardization(
        Reduction.over(x, reduced, axis_name, axis_index_groups),
        epsilon,
        dtype,
        center=False,
        round_before_scale=round_before_scale,
    )
    call = Call.parse(x, scale, None, mask, features, spec, scale_offset)
    return call.standardize(call.own_moments())
