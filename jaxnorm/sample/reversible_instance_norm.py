"""Reversible instance normalization of time series, and its inverse for forecasts."""

from collections.abc import Sequence
from typing import NamedTuple

from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.align import broadcasts
from jaxnorm._core.arguments.axes import Axes, canonical_axes, canonical_axis
from jaxnorm._core.arrays.dtypes import check_inexact, output_dtype
from jaxnorm._core.arrays.safe_math import safe_sqrt
from jaxnorm._core.call import Call
from jaxnorm._core.normalize import denormalize_with
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.reduction import Reduction, SingleValue
from jaxnorm._core.standardize import Standardization


class Denormalizer(NamedTuple):
    """The inverse of a normalization: maps normalized series back to their scale.

    It is a pytree of arrays, which have the rank of the series, and size 1 along the
    time and other shared axes; it may pass through `jax.jit`, `jax.grad` and
    `jax.lax.scan`.

    Attributes:
      mean: Mean of each series.
      std: Standard deviation of each series, sqrt(var + epsilon); real.
      scale: The scale of the normalized series, or None.
      bias: The bias of the normalized series, or None.
    """

    mean: Array
    std: Array
    scale: Array | None
    bias: Array | None

    def __call__(
        self, z: Inexact[Array, "..."], *, dtype: DTypeLike | None = None
    ) -> Array:
        """Returns (z - bias) / scale * std + mean, computed in float32 or wider.

        Args:
          z: Series of any length, otherwise of the shape of the normalized series.
          dtype: Dtype of the result; by default what z, scale and bias promote to.

        Raises:
          TypeError: If z is an integer array, or the series were complex and the result
            would be real.
          ValueError: If z has another rank, or other sizes.
        """
        z = check_inexact(z, "z")
        for name, value in self._asdict().items():
            if value is not None and not broadcasts(value.shape, z.shape):
                raise ValueError(
                    "z must have the shape of the normalized series, except for the "
                    f"length of the time, got {z.shape}. Their {name} has the shape "
                    f"{value.shape}, with size 1 on the time and other shared axes."
                )
        result = output_dtype(dtype, z=z, scale=self.scale, bias=self.bias)
        scale = jnp.ones_like(self.mean) if self.scale is None else self.scale
        bias = jnp.zeros_like(self.mean) if self.bias is None else self.bias
        return denormalize_with(self.mean, self.std, z, scale, bias, result)


def reversible_instance_norm(
    x: Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    time_axis: int = 1,
    feature_axes: Axes = -1,
    epsilon: float = 1e-5,
    scale_offset: float = 0.0,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    allow_single_value: SingleValue = False,
    dtype: DTypeLike | None = None,
) -> tuple[Array, Denormalizer]:
    """Normalizes each series over time, and returns the inverse for forecasts.

    With the mean and the biased variance of each series over `time_axis` alone::

        y       = (x - mean) / sqrt(var + epsilon) * (scale_offset + scale) + bias
        undo(z) = (z - bias) / (scale_offset + scale) * sqrt(var + epsilon) + mean

    A network between the two sees series of mean 0 and variance 1, however much their
    mean and variance change after training.

    Both are differentiated in all of their arrays, also through the mean and the
    variance. (The code of the paper treats these as constants; for this, call
    `jax.lax.stop_gradient(undo)`.)

    Args:
      x: Series, for instance of shape (batch, time, features); floating or complex.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared;
        1 where None. If `scale_offset + scale` is 0, the result of `undo` is not
        finite: start with a factor of 1.
      bias: Same shapes as scale; 0 where None.
      time_axis: The axis that is averaged over.
      feature_axes: The axis or axes along which scale and bias lie.
      epsilon: Added to the variance; at least 0. If both are 0, y is the bias.
      scale_offset: As in `jaxnorm.rms_norm`.
      mask: Selects the values that exist, or gives weights; as in
        `jaxnorm.layer_norm`.
      axis_name: Mapped axes over which the time is divided; as in `jaxnorm.layer_norm`.
      axis_index_groups: As in `jaxnorm.layer_norm`.
      allow_single_value: As in `jaxnorm.layer_norm`.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x, and `undo`, a `jaxnorm.Denormalizer`: a function, and a
      pytree of arrays, which transformed functions can take and return.

    Raises:
      TypeError: If x is an integer array, or `dtype` is real for complex input.
      ValueError: If a shape, an axis or the groups do not fit, `feature_axes` include
        the time, epsilon is negative, or a mean is of a single value.
      NameError: If `axis_name` is not bound.

    Reference:
      Kim et al., 2022, Reversible Instance Normalization for Accurate Time-Series
      Forecasting against Distribution Shift, equations 1 to 3
      (https://openreview.net/forum?id=cGDAkQo1C0p).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[[1.0], [3.0]], [[10.0], [30.0]]])  # two series, two times
      >>> y, undo = jaxnorm.reversible_instance_norm(x)
      >>> y.round(3).ravel()
      Array([-1.,  1., -1.,  1.], dtype=float32)
      >>> undo(jnp.zeros((2, 3, 1)))[..., 0]  # three times of a forecast
      Array([[ 2.,  2.,  2.],
             [20., 20., 20.]], dtype=float32)
    """
    x = check_inexact(x, "x")
    time = canonical_axis(time_axis, x.ndim, "time_axis")
    features = canonical_axes(feature_axes, x.ndim)
    if time in features:
        raise ValueError(
            f"time_axis must not be among feature_axes, got {time_axis} and "
            f"{feature_axes} for an input of shape {x.shape}. Does the input lack an "
            "axis of features? Add one: x[..., None]."
        )
    reduction = Reduction.over(x, (time,), axis_name, axis_index_groups)
    reduction.check_several(x, allow_single_value)
    dtype = output_dtype(dtype, x=x, scale=scale, bias=bias)
    spec = Standardization(reduction, epsilon, dtype)
    call = Call.parse(x, scale, bias, mask, features, spec, scale_offset)
    moments = call.own_moments()
    undo = Denormalizer(
        moments.mean,
        safe_sqrt(moments.var + call.spec.epsilon),
        None if scale is None else call.scale,
        None if bias is None else call.bias,
    )
    return call.standardize(moments), undo
