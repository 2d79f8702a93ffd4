"""Layer normalization of segments."""

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
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.reduction import Reduction


def segment_layer_norm(
    x: Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
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
    """Normalizes each segment over its positions and features.

    A segment is a graph of a batch of graphs, whose nodes are the rows of x, or one of
    several sequences in a packed row. With the mean and the biased variance over the
    positions of one id, and over `reduction_axes`::

        y = (x - mean) / sqrt(var + epsilon) * (scale_offset + scale) + bias

    To normalize each position separately, use `jaxnorm.layer_norm` without segments.

    A large mean costs no accuracy: a first pass over x computes the means, and a second
    pass sums the squared deviations from them. The backward pass keeps x, the ids, and
    a few numbers for each segment.

    Args:
      x: Input of shape (positions, ..., features); floating or complex. Statistics are
        computed in float32 or wider.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared;
        1 where None. `style[segment_ids]` gives each segment a separate scale.
      bias: Same shapes as scale; 0 where None.
      segment_ids: Integers of the shape of the leading axes of x, its positions, in any
        order: all positions with the same id form a segment, along all of these axes. A
        position whose id is negative, or at least `num_segments`, is masked, and its
        output is `bias`. If each row has separate ids, map over the rows with
        `jax.vmap`.
      num_segments: Number of segments, greater than all ids; a Python integer,
        because shapes depend on it. Ids may be unused.
      reduction_axes: The axis or axes to average over besides the positions; after
        them.
      feature_axes: The axis or axes of scale and bias; after the axes of positions.
      epsilon: Added to the variance; at least 0. In PyTorch Geometric it is 1e-5.
      scale_offset: As in `jaxnorm.rms_norm`.
      mask: Broadcasts to x. Booleans and integers (nonzero) say which elements count;
        floating values are non-negative weights, not differentiated. Masked elements do
        not affect statistics. They are normalized like the others of their segment; if
        they are not finite (or too large to be squared), the output is `bias`, with no
        gradient. So is the output of a segment without valid elements.
      axis_name: Mapped axis or axes (of `jax.pmap`, `jax.shard_map`, `jax.vmap`) over
        which positions, or reduced axes, are divided. An id means the same segment on
        all devices; the sums of all segments are added over devices, in two collectives
        forward and one backward. (In `jax.shard_map` with `check_vma=True`, one more
        sums the gradients of scale and bias.) Under `jax.jit` a sharded x needs none.
      axis_index_groups: As in `jaxnorm.layer_norm`.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If x is an integer array, `segment_ids` are not integers,
        `num_segments` is not a Python integer, or `dtype` is real for complex input.
      ValueError: If a shape, an axis or the groups do not fit, `num_segments` is not
        positive, or epsilon is negative.
      NameError: If `axis_name` is not bound.

    Reference:
      Ba, Kiros and Hinton, 2016, Layer Normalization, equation 3
      (https://arxiv.org/abs/1607.06450), of a graph in place of an example, as PyTorch
      Geometric's `LayerNorm(mode="graph")`.

    Example:
      >>> import jax, jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[1.0, 3.0], [1.0, 3.0], [10.0, 30.0]])  # nodes of two graphs
      >>> ids = jnp.array([0, 0, 1])
      >>> jaxnorm.segment_layer_norm(x, segment_ids=ids, num_segments=2).round(3)
      Array([[-1.,  1.],
             [-1.,  1.],
             [-1.,  1.]], dtype=float32)
      >>> def of_row(x, ids):  # sequences of one row; -1 is padding
      ...     return jaxnorm.segment_layer_norm(x, segment_ids=ids, num_segments=2)
      >>> ids = jnp.array([[0, 0, 1], [0, 0, -1]])
      >>> jax.vmap(of_row)(jnp.stack([x, x]), ids)[..., 0].round(3)
      Array([[-1., -1., -1.],
             [-1., -1.,  0.]], dtype=float32)
    """
    x = check_inexact(x, "x")
    features = canonical_axes(feature_axes, x.ndim)
    result = output_dtype(dtype, x=x, scale=scale, bias=bias)
    scale, bias = align_affine(x, scale, bias, features, scale_offset)
    ids, number, mask = parse_segments(segment_ids, num_segments, x, mask, features)
    reduction = Reduction.over(
        x, reduced_axes(reduction_axes, ids, x.ndim), axis_name, axis_index_groups
    )
    spec = SegmentNormSpec(number, ids.ndim, reduction, check_epsilon(epsilon), result)
    return normalize_segments(spec, x, ids, mask, scale, bias)[0]
