"""Root mean square normalization of segments."""

from collections.abc import Sequence

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact, Integer, Shaped

from jaxnorm._core.arguments.align import align_affine
from jaxnorm._core.arguments.axes import Axes, canonical_axes
from jaxnorm._core.arguments.segment_ids import parse_segments, reduced_axes
from jaxnorm._core.arguments.validation import check_epsilon
from jaxnorm._core.arrays.dtypes import check_inexact, output_dtype
from jaxnorm._core.moments.segments import SegmentNormSpec, normalize_segments
from jaxnorm._core.reductions.collectives import Groups, MappedAxes
from jaxnorm._core.reductions.reduction import Reduction


def segment_rms_norm(
    x: Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    *,
    segment_ids: Integer[Array, "..."],
    num_segments: int,
    reduction_axes: Axes = -1,
    feature_axes: Axes = -1,
    epsilon: float = 1e-6,
    scale_offset: float = 0.0,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Divides each segment by the root mean square of its positions and features.

    A segment is a graph of a batch, or one of several sequences in a packed row. With
    the mean over the positions of one id, and over `reduction_axes`::

        y = x / sqrt(mean(|x|^2) + epsilon) * (scale_offset + scale)

    To divide each position by its own root mean square, use `jaxnorm.rms_norm`. The
    backward pass keeps x, the ids, and two numbers for each segment. If the sum of
    squares exceeds the range of the dtype, y is 0.

    Args:
      x: Input of shape (positions, ..., features); floating or complex. Statistics are
        computed in float32 or wider.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared.
        If None, y is not scaled, whatever the offset.
      segment_ids: As in `jaxnorm.segment_layer_norm`; positions outside all segments
        give 0.
      num_segments: As in `jaxnorm.segment_layer_norm`.
      reduction_axes: The axis or axes to average over besides the positions; after
        them.
      feature_axes: The axis or axes of scale; after the axes of positions.
      epsilon: Added to the mean square; at least 0.
      scale_offset: As in `jaxnorm.rms_norm`.
      mask: As in `jaxnorm.segment_layer_norm`.
      axis_name: As in `jaxnorm.segment_layer_norm`: one collective forward and one
        backward.
      axis_index_groups: As in `jaxnorm.layer_norm`.
      dtype: Dtype of y; by default what x and scale promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If x is an integer array, `segment_ids` are not integers,
        `num_segments` is not a Python integer, or `dtype` is real for complex input.
      ValueError: If a shape, an axis or the groups do not fit, `num_segments` is not
        positive, or epsilon is negative.
      NameError: If `axis_name` is not bound.

    Reference:
      Zhang and Sennrich, 2019, Root Mean Square Layer Normalization, equation 4
      (https://arxiv.org/abs/1910.07467), of a segment in place of an example.

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[2.0, 2.0], [2.0, -2.0], [3.0, -3.0]])
      >>> ids = jnp.array([0, 0, 1])
      >>> jaxnorm.segment_rms_norm(x, segment_ids=ids, num_segments=2).round(2)
      Array([[ 1.,  1.],
             [ 1., -1.],
             [ 1., -1.]], dtype=float32)
    """
    x = check_inexact(x, "x")
    features = canonical_axes(feature_axes, x.ndim)
    result = output_dtype(dtype, x=x, scale=scale)
    scale, bias = align_affine(x, scale, None, features, scale_offset)
    ids, number, mask = parse_segments(segment_ids, num_segments, x, mask, features)
    mapped_axes = MappedAxes.parse(axis_name, axis_index_groups, x)
    spec = SegmentNormSpec(
        number,
        ids.ndim,
        Reduction(reduced_axes(reduction_axes, ids, x.ndim), mapped_axes),
        check_epsilon(epsilon),
        result,
        center=False,
    )
    return normalize_segments(spec, x, ids, mask, scale, bias)[0]
