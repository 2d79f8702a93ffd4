"""Self-rescaled dynamic normalization (SeeDNorm): RMS norm with a scale set by x."""

import dataclasses
import functools
from collections.abc import Sequence

from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.align import align_parameter
from jaxnorm._core.arguments.axes import Axes, canonical_axes, canonical_axis
from jaxnorm._core.arguments.validation import check_integer
from jaxnorm._core.arrays.dtypes import (
    accumulation_dtype,
    check_inexact,
    check_real,
    output_dtype,
)
from jaxnorm._core.arrays.rematerialization import tag_for_remat
from jaxnorm._core.call import Call
from jaxnorm._core.reductions.collectives import Groups, MappedAxes
from jaxnorm._core.reductions.masking import zero_masked
from jaxnorm._core.reductions.reduction import Blocks, Reduction
from jaxnorm._core.standardize import Standardization
from jaxnorm.sample.group_norm import check_divisor, group_axes


def seed_norm(
    x: Inexact[Array, "..."],
    alpha: Inexact[Array, ""] | Inexact[Array, "..."],
    beta: Inexact[Array, ""] | Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    *,
    num_heads: int = 1,
    reduction_axes: Axes = -1,
    feature_axes: Axes = -1,
    epsilon: float = 1e-6,
    scale_offset: float = 0.0,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Applies RMS norm with a scale that depends on the input.

    The sum and the mean are over `reduction_axes`. With several heads, which are groups
    of adjacent features, the sum is over each head::

        y = x / sqrt(mean(x^2) + epsilon) * (
            scale_offset + scale + alpha * tanh(sum(beta * x))
        )

    It is computed in float32 or wider; only y is rounded to a narrower dtype. If beta
    is 0, as at the start of training, it is RMS norm. The backward pass keeps x, one
    number for each example and head, and one for each example. If the sum of squares
    exceeds the range of the dtype, y is 0.

    The gradient of beta grows with the size of x and the number of features. So the
    paper uses weight decay for alpha and beta, and several heads in vision models: with
    one head, its ViT-B does not learn.

    Args:
      x: Input of any shape; floating.
      alpha: Sizes of the feature axes, ascending; or the rank of x with 1 where shared;
        or a scalar. Its initial value in the paper is 1.
      beta: Same shapes as alpha. Its initial value in the paper is 0.
      scale: Same shapes as alpha, except a scalar; 1 where None, whatever the offset.
      num_heads: Number of heads, each with a separate sum; divides the number of
        features.
      reduction_axes: The axis or axes of the sum and the mean; with several heads, they
        include the feature axis.
      feature_axes: The axis or axes of the parameters; with several heads, the one
        feature axis.
      epsilon: Added to the mean square; at least 0.
      scale_offset: As in `jaxnorm.rms_norm`.
      mask: As in `jaxnorm.rms_norm`. Weights apply only to the mean; the sum includes
        every valid element with weight 1.
      axis_name: As in `jaxnorm.layer_norm`, with one head only. XLA merges the
        collectives of the mean and of the sum into one forward and one backward.
      axis_index_groups: As in `jaxnorm.layer_norm`.
      dtype: Dtype of y; by default what x and scale promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If an array holds integers or complex numbers.
      ValueError: If the heads do not divide the features, or are several with an
        `axis_name`, a shape, an axis or the groups do not fit, or epsilon is negative.
      NameError: If `axis_name` is not bound.

    Reference:
      Cai et al., 2025, SeeDNorm: Self-Rescaled Dynamic Normalization, section 3
      (https://arxiv.org/abs/2510.22777).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[3.0, 3.0], [0.1, -0.3]])
      >>> jaxnorm.seed_norm(x, jnp.ones(2), jnp.full(2, 0.5)).round(1)
      Array([[ 2. ,  2. ],
             [ 0.4, -1.2]], dtype=float32)
    """
    x = check_inexact(x, "x")
    num_heads = check_integer(num_heads, "num_heads")
    reduced = canonical_axes(reduction_axes, x.ndim, "reduction_axes")
    features = canonical_axes(feature_axes, x.ndim)
    mapped_axes = MappedAxes.parse(axis_name, axis_index_groups, x)
    head = Reduction(reduced, mapped_axes)
    if num_heads != 1:
        if axis_name is not None:
            raise ValueError(
                "with an axis_name there must be one head, because the features of a "
                "head on other devices are not known, got "
                f"num_heads={num_heads} and axis_name={axis_name!r}. Under jax.jit, a "
                "sharded x needs no axis_name and may have several heads."
            )
        feature_axis = canonical_axis(feature_axes, x.ndim)
        length = x.shape[feature_axis]
        size = length // check_divisor(num_heads, length, "num_heads")
        others = group_axes(reduction_axes, feature_axis, x.ndim)
        head = Reduction(others, mapped_axes, Blocks(feature_axis, size))
    alpha = align_parameter(alpha, "alpha", x, features)
    beta = align_parameter(beta, "beta", x, features)
    dtype = output_dtype(dtype, x=x, scale=scale)
    reduction = Reduction(reduced, mapped_axes)
    spec = Standardization(reduction, epsilon, dtype, center=False)
    call = Call.parse(x, scale, None, mask, features, spec, scale_offset)
    check_real("the scale is a tanh of it", x=x, scale=call.scale)
    # Otherwise the scale, a float32 array of the size of x, would be kept too.
    return call.rematerialize(functools.partial(_normalize, head, alpha, beta))


def _normalize(head: Reduction, alpha: Array, beta: Array, call: Call) -> Array:
    result = call.spec.dtype
    wide = accumulation_dtype(result, call.x.dtype)
    # In the dtype of x, not of y: if only y is wider, the elements of x are not.
    products = zero_masked(call.mask, call.x) * beta.astype(call.x.dtype)
    gate = jnp.tanh(head.broadcast_back(*tag_for_remat(head.sums(products))))
    scale = call.scale.astype(wide) + alpha.astype(wide) * gate.astype(wide)
    unscaled = dataclasses.replace(
        call,
        scale=jnp.ones((1,) * call.x.ndim, wide),
        spec=dataclasses.replace(call.spec, dtype=wide),
    )
    # Scaling inside `standardize` would make XLA for GPUs read x twice.
    return (unscaled.standardize(call.own_moments()) * scale).astype(result)
