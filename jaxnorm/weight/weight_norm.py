"""Weight normalization: a weight as a length times a direction."""

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
    """Gives a weight the length g and the direction of v.

    With the norm over all axes but `feature_axes`, one for each output unit::

        w = g v / sqrt(||v||^2 + epsilon)

    The gradient in v is orthogonal to v (where epsilon is 0), so that ||v|| grows while
    training and the effective learning rate falls. Where v = 0, w and both gradients
    are 0. No square overflows or underflows on the way. Computed in float32 or wider.

    Args:
      v: Weight of any shape, floating or complex, output features last (HWIO).
      g: Lengths, of the feature shape (sizes of the feature axes, ascending), or of the
        rank of v with 1 where shared.
      feature_axes: The axis or axes of the output units. None or (): one norm for the
        whole array, and a scalar g.
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
    """Returns the lengths g with which `weight_norm(w, g)` is w: its norms.

    So a trained or otherwise initialized weight becomes weight-normalized without a
    change of what its layer computes::

        g = ||w||    over all axes but feature_axes

    A unit whose weight is 0 has no direction: it stays 0, and so do its gradients.

    Args:
      w: Weight of any shape, floating or complex.
      feature_axes: The axis or axes of the output units. None or (): one norm for the
        whole array.

    Returns:
      g, of the feature shape; real, float32 or wider. Its gradient is 0 where w is.

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
    """Data-dependent initialization of a layer with weight normalization.

    Given what the layer puts out for one minibatch, y = w x + bias with
    w = weight_norm(v, g), and the mean and biased standard deviation of y in each unit,
    over the batch and space::

        new_g    = g / sd(y)
        new_bias = (bias - mean(y)) / sd(y)

    With these the layer puts out (y - mean(y)) / sd(y) for that minibatch: mean 0,
    variance 1. Layers are initialized one after another, each from the new output of
    the one before. With g = 1 and bias = 0 this is the paper's equation 6. It is not
    meant for recurrent layers, whose outputs at different steps differ in their moments
    and share g.

    A unit whose standard deviation is 0, or within the rounding of its mean, keeps its
    g, and its bias is moved by the mean.

    Args:
      y: Output before the activation; floating or complex. One minibatch, so large that
        its moments mean something; in the paper 500 examples.
      g: Current lengths, of the feature shape.
      bias: Current bias, of the feature shape; zeros for a layer without one (and then
        of the new bias make no use: the variance becomes 1, the mean stays).
      feature_axes: The axis or axes of y that hold the output units.
      mask: Broadcasts to y; which elements count, or their weights.
      axis_name: Mapped axis or axes over which the moments are shared.

    Returns:
      The new g and bias, in their dtypes.

    Raises:
      TypeError: If y is an integer array.
      ValueError: If g, bias or mask has not the shape it must have.

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
    # The running mean that makes one pass exact does not exist yet: two passes.
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
    # Constant units (a batch of one, or of ones, say) would be blown up by 1e7.
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
      axes: Axes of the norm; they have size 1 in the length.
      least: Its square is added to the squared norm; a scalar, at least 0.
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
    # Below 1 are only squares of zeros, and of subnormal numbers, which many processors
    # take for zeros. With a select in its place, GPUs would need several kernels.
    inverse = 1 / jnp.sqrt(jnp.maximum(square, 1))
    return v * inverse.astype(v.dtype), unit * (square * inverse)


def _canonical_feature_axes(feature_axes: Axes | None, ndim: int) -> tuple[int, ...]:
    return () if feature_axes is None else canonical_axes(feature_axes, ndim)
