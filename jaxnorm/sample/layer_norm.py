"""Layer normalization."""

from collections.abc import Sequence

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.axes import Axes, canonical_axes
from jaxnorm._core.arrays.dtypes import check_inexact, output_dtype
from jaxnorm._core.call import Call
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.reduction import Reduction, SingleValue
from jaxnorm._core.standardize import Standardization


def layer_norm(
    x: Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    reduction_axes: Axes = -1,
    feature_axes: Axes = -1,
    epsilon: float = 1e-6,
    scale_offset: float = 0.0,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    allow_single_value: SingleValue = False,
    dtype: DTypeLike | None = None,
) -> Array:
    """Normalizes each example over its features.

    With the mean and the biased variance over `reduction_axes`::

        y = (x - mean) / sqrt(var + epsilon) * (scale_offset + scale) + bias

    A large mean costs no accuracy: before squaring, the mean of a part of x is
    subtracted, or the mean of all of x if this takes no additional pass over memory.
    The backward pass keeps x, and one mean and variance for each example.

    To average also over the positions of a segment (a graph of a batch, or a sequence
    of a packed row), use `jaxnorm.segment_layer_norm`.

    Args:
      x: Input of any shape; floating or complex. Statistics are computed in float32 or
        wider.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared
        (one per example: adaptive layer norm); 1 where None.
      bias: Same shapes as scale; 0 where None.
      reduction_axes: The axis or axes to average over.
      feature_axes: The axis or axes of scale and bias; they may differ from
        `reduction_axes`.
      epsilon: Added to the variance; at least 0. If both are 0, y is the bias.
      scale_offset: As in `jaxnorm.rms_norm`.
      mask: Broadcasts to x. Booleans and integers (nonzero) say which elements count;
        floating values are non-negative weights, not differentiated. Masked elements do
        not affect statistics. They are normalized like the others; if they are not
        finite (or too large to be squared), the output is `bias`, with no gradient. So
        is the output of an example without valid elements.
      axis_name: Mapped axis or axes (of `jax.pmap`, `jax.shard_map`, `jax.vmap`) over
        which the reduced axes are divided, for instance the features of a layer that is
        parallel over devices: two collectives forward and one backward. Scale and bias
        then belong to the features of this device. Under `jax.jit` a sharded x needs
        none.
      axis_index_groups: Groups of equal size of the indices of the one `axis_name`,
        each with separate statistics.
      allow_single_value: Whether each mean may be of a single value, so that y is the
        bias, whatever x is; "warn" allows it with a warning.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If x is an integer array, or `dtype` is real for complex input.
      ValueError: If a shape, an axis or the groups do not fit, epsilon is
        negative, or a mean is of a single value.
      NameError: If `axis_name` is not bound.

    Reference:
      Ba, Kiros and Hinton, 2016, Layer Normalization, equation 3
      (https://arxiv.org/abs/1607.06450).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0, 3.0], [10.0, 30.0]])
      >>> jaxnorm.layer_norm(x).round(3)
      Array([[-1.,  1.],
             [-1.,  1.]], dtype=float32)
    """
    x = check_inexact(x, "x")
    features = canonical_axes(feature_axes, x.ndim)
    reduced = canonical_axes(reduction_axes, x.ndim, "reduction_axes")
    reduction = Reduction.over(x, reduced, axis_name, axis_index_groups)
    reduction.check_several(x, allow_single_value)
    dtype = output_dtype(dtype, x=x, scale=scale, bias=bias)
    spec = Standardization(reduction, epsilon, dtype)
    call = Call.parse(x, scale, bias, mask, features, spec, scale_offset)
    return call.standardize(call.own_moments())
