"""Learned arrays beside scale and bias: thresholds, slopes, gates. They are real."""

from jax import Array
from jax import numpy as jnp

from jaxnorm.core.axes import align
from jaxnorm.core.validation import check_inexact, check_real


def real_parameter(
    value: Array, name: str, x: Array, feature_axes: tuple[int, ...]
) -> Array:
    """Returns a learned parameter with the rank of x.

    Args:
      value: A scalar; or an array of the feature shape, or of the rank of x with 1
        where it is shared.
      name: The argument's name, for the error messages.
      x: The input.
      feature_axes: Canonical feature axes.

    Raises:
      TypeError: If it is not real and floating.
      ValueError: If its shape is none of these.
    """
    value = check_inexact(value, name)
    check_real("it is no factor", **{name: value})
    if value.ndim == 0:
        return jnp.reshape(value, (1,) * x.ndim)
    return align(value, x, feature_axes, name)
