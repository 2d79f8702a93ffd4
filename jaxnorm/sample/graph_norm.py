"""Graph normalization, and instance normalization, of segments."""

from collections.abc import Sequence

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact, Integer, Shaped

from jaxnorm._core.arguments.align import align_affine, align_parameter
from jaxnorm._core.arguments.axes import Axes, canonical_axes, other_axes, sizes
from jaxnorm._core.arguments.segment_ids import parse_segments
from jaxnorm._core.arguments.validation import check_epsilon
from jaxnorm._core.arrays.dtypes import check_inexact, output_dtype
from jaxnorm._core.moments.segments import SegmentNormSpec, normalize_segments
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.reduction import Reduction


def graph_norm(
    x: Inexact[Array, "..."],
    mean_scale: Inexact[Array, "..."] | None = None,
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    segment_ids: Integer[Array, "..."],
    num_segments: int,
    feature_axes: Axes = -1,
    epsilon: float = 1e-6,
    scale_offset: float = 0.0,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Normalizes each feature of each segment, less a learned part of its mean.

    A segment is a graph in a batch of graphs, whose nodes are the rows of x; or a
    sequence of several in one row. With the mean of each feature over the positions of
    one id, and over all axes but theirs and `feature_axes`::

        d = x - mean_scale * mean
        y = d / sqrt(mean(|d|^2) + epsilon) * (scale_offset + scale) + bias

    The mean of a graph tells of its structure, which is why part of it may stay. If
    `mean_scale` is None, all of it is subtracted: this is instance norm of segments.

    A large mean costs no accuracy: a first pass over x is for the means, and a second
    one sums what is left. What is kept for the backward pass is x, the ids, and a few
    numbers for each feature of each segment.

    Args:
      x: Input of shape (positions, ..., features); floating or complex. Statistics are
        computed in float32 or wider.
      mean_scale: Sizes of the feature axes, ascending; a scalar; or the rank of x with
        1 along all other axes. Real; 1 where None.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared;
        1 where None. `style[segment_ids]` gives each segment its own.
      bias: Same shapes as scale; 0 where None.
      segment_ids: As in `jaxnorm.segment_layer_norm`.
      num_segments: As in `jaxnorm.segment_layer_norm`.
      feature_axes: The axis or axes that keep their own statistics; after the axes of
        positions.
      epsilon: Added to the mean square; at least 0. PyTorch Geometric's is 1e-5.
      scale_offset: As in `jaxnorm.rms_norm`.
      mask: As in `jaxnorm.segment_layer_norm`.
      axis_name: As in `jaxnorm.segment_layer_norm`.
      axis_index_groups: As in `jaxnorm.layer_norm`.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x. Without `mean_scale`, a segment of a single position has no
      variance, and comes out as `bias`.

    Raises:
      TypeError: If x is an integer array, `segment_ids` is not one, `num_segments` is
        not a Python integer, `mean_scale` is complex, or `dtype` is real for complex
        input.
      ValueError: If a shape, an axis or the groups do not fit, `num_segments` is not
        positive, or epsilon is negative.
      NameError: If `axis_name` is not bound.

    Reference:
      Cai et al., 2021, GraphNorm: A Principled Approach to Accelerating Graph Neural
      Network Training (https://arxiv.org/abs/2009.03294).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0], [3.0], [10.0], [30.0]])  # nodes of two graphs
      >>> graph = {"segment_ids": jnp.array([0, 0, 1, 1]), "num_segments": 2}
      >>> jaxnorm.graph_norm(x, **graph).round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
      >>> jaxnorm.graph_norm(x, jnp.array([0.5]), **graph).round(3).ravel()
      Array([0.   , 1.414, 0.   , 1.414], dtype=float32)
    """
    x = check_inexact(x, "x")
    features = canonical_axes(feature_axes, x.ndim)
    result = output_dtype(dtype, x=x, scale=scale, bias=bias)
    scale, bias = align_affine(x, scale, bias, features, scale_offset)
    ids, number, mask = parse_segments(segment_ids, num_segments, x, mask, features)
    if mean_scale is not None:
        mean_scale = align_parameter(mean_scale, "mean_scale", x, features)
        if {*sizes(mean_scale.shape, other_axes(features, x.ndim))} - {1}:
            raise ValueError(
                "mean_scale must be one number for each feature, with size 1 along "
                f"axes that are not among feature_axes={features}, got "
                f"{mean_scale.shape} for an input of shape {x.shape}."
            )
    reduced = other_axes((*range(ids.ndim), *features), x.ndim)
    reduction = Reduction.over(x, reduced, axis_name, axis_index_groups)
    spec = SegmentNormSpec(number, ids.ndim, reduction, check_epsilon(epsilon), result)
    return normalize_segments(spec, x, ids, mask, scale, bias, mean_scale)[0]
