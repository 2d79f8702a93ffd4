"""Weight normalization: a weight is a length times a direction."""

import math

from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.align import align
from jaxnorm._core.arguments.axes import Axes, canonical_axes, other_axes
from jaxnorm._core.arguments.validation import check_epsilon
from jaxnorm._core.arrays.dtypes import (
    accumulation_dtype,
    check_inexact,
    output_dtype,
    real_dtype,
)
from jaxnorm._core.moments.moments import batch_moments
from jaxnorm._core.reductions.collectives import MappedAxes
from jaxnorm.weight.unit import ALONE, squared_length


def weight_norm(
    v: Inexact[Array, "..."],
    g: Inexact[Array, "..."],
    *,
    feature_axes: Axes | None = -1,
    epsilon: float = 0.0,
    dtype: DTypeLike | None = None,
) -> Array:
    """Returns the weight with length g and the direction of v.

    The norm is over all axes but `feature_axes`, so each output unit has one::

        w = g v / sqrt(||v||^2 + epsilon)

    The gradient with respect to v is orthogonal to v (if epsilon is 0), so that ||v||
    grows during training and the effective learning rate falls. Where v = 0, w and both
    gradients are 0. Squares neither overflow nor underflow. Norms are computed in
    float32 or wider.

    Args:
      v: Weight of any shape, floating or complex, output features last (HWIO).
      g: Lengths, with the feature shape (sizes of the feature axes, ascending), or with
        the rank of v and size 1 on shared axes.
      feature_axes: The axis or axes of the output units. None or () gives one norm for
        the whole array; g is then a scalar.
      epsilon: Added to the squared norm; at least 0.
      dtype: Dtype of w; by default what v and g promote to.

    Returns:
      w, of the shape of v.

    Raises:
      TypeError: If v or g is an integer array, or `dtype` is real for complex input.
      ValueError: If g or an axis does not fit, or epsilon is negative.

    Reference:
      Salimans and Kingma, 2016, Weight Normalization, equations 2 and 3
      (https://arxiv.org/abs/1602.07868).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> v = jnp.array([[3.0, 0.0], [4.0, 0.1]])
      >>> jaxnorm.weight_norm(v, jnp.array([10.0, 1.0]))
      Array([[6., 0.],
             [8., 1.]], dtype=float32)
    """
    v, g = check_inexact(v, "v"), check_inexact(g, "g")
    epsilon = check_epsilon(epsilon)
    features = _canonical_feature_axes(feature_axes, v.ndim)
    g = align(g, v, features, "g")
    result = output_dtype(dtype, v=v, g=g)
    wide = accumulation_dtype(result, v.dtype, g.dtype)
    direction, _ = direction_and_length(
        v.astype(wide), other_axes(features, v.ndim), math.sqrt(epsilon)
    )
    return (direction * g.astype(wide)).astype(result)


def weight_magnitude(
    w: Inexact[Array, "..."], *, feature_axes: Axes | None = -1
) -> Array:
    """Returns the norms of a weight: the g for which `weight_norm(w, g)` equals w.

    Use it to weight-normalize a layer, trained or newly initialized, without changing
    what the layer computes::

        g = ||w||    over all axes but feature_axes

    A unit whose weight is 0 has no direction: it stays 0, and so do its gradients.

    Args:
      w: Weight of any shape, floating or complex.
      feature_axes: The axis or axes of the output units. None or () gives one norm for
        the whole array.

    Returns:
      g, of the feature shape; real, float32 or wider. Its gradient is 0 where w is 0.

    Raises:
      TypeError: If w is an integer array.
      ValueError: If an axis does not fit.

    Reference:
      Salimans and Kingma, 2016, Weight Normalization, section 2
      (https://arxiv.org/abs/1602.07868).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> w = jnp.array([[3.0, 0.0], [4.0, 2.0]])
      >>> g = jaxnorm.weight_magnitude(w)
      >>> g
      Array([5., 2.], dtype=float32)
      >>> jnp.allclose(jaxnorm.weight_norm(w, g), w)
      Array(True, dtype=bool)
    """
    w = check_inexact(w, "w")
    axes = other_axes(_canonical_feature_axes(feature_axes, w.ndim), w.ndim)
    _, length = direction_and_length(w.astype(accumulation_dtype(w.dtype)), axes)
    return jnp.squeeze(length, axes)


def init_weight_norm(
    y: Inexact[Array, "..."],
    g: Inexact[Array, "..."],
    bias: Inexact[Array, "..."],
    *,
    feature_axes: Axes = -1,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> tuple[Array, Array]:
    """Initializes g and bias of a weight-normalized layer from its output on data.

    y = w x + bias, with w = weight_norm(v, g), is the output of the layer for one
    minibatch. With the mean and the biased standard deviation of each unit of y, over
    the batch and space::

        new_g    = g / sd(y)
        new_bias = (bias - mean(y)) / sd(y)

    With the new values, the layer returns (y - mean(y)) / sd(y) for that minibatch,
    which has mean 0 and variance 1. Initialize the layers in order, each from an input
    that the newly initialized layers before it have computed. With g = 1 and bias = 0,
    this is equation 6 of the paper. It is not meant for recurrent layers, whose steps
    share g but have different moments.

    If the standard deviation of a unit is 0, or no larger than the rounding error of
    its mean, the unit keeps its g, and the mean is subtracted from its bias.

    Args:
      y: Output before the activation; floating or complex. The minibatch should be
        large enough for reliable moments; the paper uses 500 examples.
      g: Current lengths, of the feature shape.
      bias: Current bias, of the feature shape. For a layer without a bias, pass zeros
        and ignore the new bias: the variance becomes 1, but the mean is not removed.
      feature_axes: The axis or axes of y that hold the output units.
      mask: Broadcasts to y; selects the elements that count, or gives their weights.
      axis_name: Mapped axis or axes over which the moments are shared.

    Returns:
      The new g and bias, in their dtypes.

    Raises:
      TypeError: If y is an integer array.
      ValueError: If g, bias or mask has a wrong shape.

    Reference:
      Salimans and Kingma, 2016, Weight Normalization, section 3
      (https://arxiv.org/abs/1602.07868).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x, v = jnp.array([[1.0], [5.0]]), jnp.array([[2.0]])
      >>> g, bias = jnp.ones(1), jnp.zeros(1)
      >>> y = x @ jaxnorm.weight_norm(v, g) + bias[None]
      >>> g, bias = jaxnorm.init_weight_norm(y, g, bias)
      >>> (x @ jaxnorm.weight_norm(v, g) + bias[None]).ravel()
      Array([-1.,  1.], dtype=float32)
    """
    y, g, bias = (
        check_inexact(value, name)
        for value, name in ((y, "y"), (g, "g"), (bias, "bias"))
    )
    # Two passes, because there is no running mean yet that would make one pass exact.
    _, mean, var = batch_moments(
        y,
        feature_axes=feature_axes,
        mask=mask,
        axis_name=axis_name,
        use_fast_variance=False,
    )
    for value, name in ((g, "g"), (bias, "bias")):
        if value.shape != mean.shape:
            raise ValueError(
                f"{name} must have the feature shape of y, {mean.shape} (feature_axes="
                f"{feature_axes} of {y.shape}), got {value.shape}. Data-dependent "
                "initialization needs one length and one bias for each output unit."
            )
    std = jnp.sqrt(var)
    # Constant units (for a batch of one example, for instance) would grow by 1e7.
    noise = 8 * float(jnp.finfo(std.dtype).eps) * jnp.abs(mean)
    std = jnp.where(std <= noise, jnp.ones_like(std), std)
    wide = accumulation_dtype(mean.dtype, bias.dtype)
    moved = (bias.astype(wide) - mean.astype(wide)) / std.astype(wide)
    return (g.astype(std.dtype) / std).astype(g.dtype), moved.astype(bias.dtype)


def direction_and_length(
    v: Array,
    axes: tuple[int, ...],
    least: Array | float = 0.0,
    mapped_axes: MappedAxes = ALONE,
) -> tuple[Array, Array]:
    """Returns v / sqrt(||v||^2 + least^2), and that root, with norms over `axes`.

    Where the root is 0, both values and their gradients are 0.

    Args:
      v: Vectors along `axes`, in the dtype to compute in.
      axes: Axes of the norm, which have size 1 in the length.
      least: A scalar, at least 0, whose square is added to the squared norm.
      mapped_axes: Mapped axes over which the vectors are divided.
    """
    none_added = isinstance(least, float) and least == 0
    measured = squared_length(
        axes, none_added, mapped_axes, v, jnp.asarray(least, real_dtype(v.dtype))
    )
    unit, reciprocal, square = measured
    unit, reciprocal = lax.stop_gradient((unit, reciprocal))
    v = v * reciprocal.astype(v.dtype)
    if not none_added:
        square = square + (least * reciprocal) ** 2
    # Only zeros have a square below 1, and subnormal numbers, which many processors
    # flush to zero. A select instead of the maximum would need several GPU kernels.
    inverse = 1 / jnp.sqrt(jnp.maximum(square, 1))
    return v * inverse.astype(v.dtype), unit * (square * inverse)


def _canonical_feature_axes(feature_axes: Axes | None, ndim: int) -> tuple[int, ...]:
    """Returns the non-negative feature axes; () for None."""
    return () if feature_axes is None else canonical_axes(feature_axes, ndim)
