"""Instance normalization."""

from collections.abc import Sequence

from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.axes import Axes, canonical_axes, space_axes
from jaxnorm._core.arrays.dtypes import check_inexact, output_dtype
from jaxnorm._core.call import Call
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.reduction import Reduction, SingleValue
from jaxnorm._core.standardize import Standardization


def instance_norm(
    x: Inexact[Array, "batch ..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    reduction_axes: Axes | None = None,
    feature_axes: Axes = -1,
    epsilon: float = 1e-6,
    scale_offset: float = 0.0,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    allow_single_value: SingleValue = False,
    dtype: DTypeLike | None = None,
) -> Array:
    """Normalizes each feature of each example over space.

    With the mean and the biased variance over all axes but the first, which is the
    batch, and `feature_axes`::

        y = (x - mean) / sqrt(var + epsilon) * (scale_offset + scale) + bias

    The backward pass keeps x, and one mean and variance for each feature of each
    example. With one scale and bias per example, computed from a style, this is
    adaptive instance normalization.

    To average over the positions of a segment (a graph of a batch, or a sequence of a
    packed row), use `jaxnorm.graph_norm`, which without `mean_scale` is instance norm.

    Args:
      x: Input of shape (batch, ...); floating or complex.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared;
        1 where None.
      bias: Same shapes as scale; 0 where None.
      reduction_axes: The axis or axes to average over; by default all but the first,
        which is the batch, and `feature_axes`. For one example without a batch axis, as
        under `jax.vmap`, pass the spatial axes: (0, 1) of (height, width, features).
      feature_axes: The axis or axes that keep their own statistics.
      epsilon: Added to the variance; at least 0. If both are 0, y is the bias.
      scale_offset: As in `jaxnorm.rms_norm`.
      mask: As in `jaxnorm.layer_norm`.
      axis_name: As in `jaxnorm.layer_norm`: mapped axes over which space is divided.
      axis_index_groups: As in `jaxnorm.layer_norm`.
      allow_single_value: As in `jaxnorm.layer_norm`.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If x is an integer array, or `dtype` is real for complex input.
      ValueError: If a shape, an axis or the groups do not fit, `reduction_axes` include
        a feature axis or, by default, the first axis is one, epsilon is negative, or a
        mean is of a single value.
      NameError: If `axis_name` is not bound.

    Reference:
      Ulyanov, Vedaldi and Lempitsky, 2016, Instance Normalization, equation 4
      (https://arxiv.org/abs/1607.08022). Huang and Belongie, 2017, Arbitrary Style
      Transfer in Real-time with Adaptive Instance Normalization, equation 8
      (https://arxiv.org/abs/1703.06868).

    Example:
      >>> import functools, jax, jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[[1.0, 10.0], [3.0, 30.0]]])  # one example, two positions
      >>> jaxnorm.instance_norm(x).round(3)
      Array([[[-1., -1.],
              [ 1.,  1.]]], dtype=float32)
      >>> of_one = functools.partial(jaxnorm.instance_norm, reduction_axes=0)
      >>> jax.vmap(of_one)(x).round(3)  # sees one example, of shape (2, 2)
      Array([[[-1., -1.],
              [ 1.,  1.]]], dtype=float32)
    """
    x = check_inexact(x, "x")
    features = canonical_axes(feature_axes, x.ndim)
    reduced = space_axes(reduction_axes, features, x.ndim)
    reduction = Reduction.over(x, reduced, axis_name, axis_index_groups)
    reduction.check_several(x, allow_single_value)
    dtype = output_dtype(dtype, x=x, scale=scale, bias=bias)
    spec = Standardization(reduction, epsilon, dtype)
    call = Call.parse(x, scale, bias, mask, features, spec, scale_offset)
    return call.standardize(call.own_moments())
