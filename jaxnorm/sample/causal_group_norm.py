"""Group normalization of sequences, of each step by all steps up to it."""

from collections.abc import Sequence

import jax
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.align import align_affine, align_mask
from jaxnorm._core.arguments.axes import (
    Axes,
    batch_axis,
    canonical_axis,
    other_axes,
    sizes,
)
from jaxnorm._core.arguments.validation import check_epsilon
from jaxnorm._core.arrays.dtypes import (
    accumulation_dtype,
    check_inexact,
    output_dtype,
    real_dtype,
)
from jaxnorm._core.arrays.sharding import shard_as
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.reduction import Blocks, Reduction
from jaxnorm._core.running.running_moments import (
    RunningMoments,
    check_running_moments,
)
from jaxnorm.sample.group_norm import group_axes, group_length
from jaxnorm.sample.prefixes import Prefixes, normalize_by_prefixes


def causal_group_norm(
    x: Inexact[Array, "..."],
    moments: RunningMoments | None = None,
    scale: Inexact[Array, "..."] | None = None,
    bias: Inexact[Array, "..."] | None = None,
    *,
    time_axis: int = 1,
    num_groups: int | None = 1,
    group_size: int | None = None,
    reduction_axes: Axes | None = None,
    feature_axes: Axes = -1,
    epsilon: float = 1e-6,
    scale_offset: float = 0.0,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    dtype: DTypeLike | None = None,
) -> tuple[Array, RunningMoments]:
    """Normalizes each step of a sequence by the moments of all steps up to it.

    The feature axis is split into groups of adjacent features. With the mean and the
    biased variance of a group over all `reduction_axes` and over the steps 0 to t::

        y[t] = (x[t] - mean[t]) / sqrt(var[t] + epsilon) * (scale_offset + scale) + bias

    A step does not depend on later steps, in values and in gradients, so that a model
    can run on a stream. With one group, the default, this is the cumulative layer norm
    (cLN) of speech models; with as many groups as features, it is a causal instance
    norm. The variance is over the whole prefix: between its steps and within them.

    The result is the same for all steps at once, in chunks, or one by one, if the
    returned moments are passed to the next call: in float32 within 1e-6 of the largest
    value, also for derivatives, unless the variance of the first steps is close to 0.
    The backward pass keeps x, and three numbers for each step and group, or none if a
    group of a step is a single value.

    Args:
      x: Sequences, for instance of shape (batch, time, features) or (batch, time,
        height, width, features); floating or complex. Statistics are computed in
        float32 or wider.
      moments: Moments of the steps before x, as returned by the previous call; None at
        the start of a sequence. Differentiated.
      scale: (features,); or the rank of x with 1 where shared; 1 where None.
      bias: Same shapes as scale; 0 where None.
      time_axis: The axis of the steps. Each device of a mapped axis has all steps.
        (Under `jax.jit` it may be sharded; the moments of all steps are then gathered.)
      num_groups: Number of groups of features; divides the number of features. None if
        `group_size` is given.
      group_size: Number of features in a group; divides the number of features. Needs
        `num_groups=None`.
      reduction_axes: The axes to average over at each step, including the feature
        axis; by default all but the time and the first, which is the batch. For one
        sequence without a batch axis, as under `jax.vmap`, pass all axes but the time.
      feature_axes: The one feature axis.
      epsilon: Added to the variance; at least 0. If a step is a single value, the
        variance of the first step is 0, and its output is `bias`.
      scale_offset: As in `jaxnorm.rms_norm`.
      mask: As in `jaxnorm.layer_norm`; steps without valid elements, such as padding,
        do not change the moments. Before the first valid element, y is `bias`.
      axis_name: As in `jaxnorm.layer_norm`: mapped axes over which reduced axes other
        than the features are divided; with one group, also the features.
      axis_index_groups: As in `jaxnorm.layer_norm`.
      dtype: Dtype of y; by default what x, scale and bias promote to.

    Returns:
      y, of the shape of x, and the moments of all steps so far, as a
      `jaxnorm.RunningMoments` of shape (batch, groups): the axes that are neither
      reduced nor the time, with groups in place of features. As in
      `jaxnorm.running_norm`, a single element still counts after 1e8 others. For a
      carry, which needs its final structure from the start,
      `jaxnorm.init_running_moments` returns the initial moments.

    Raises:
      TypeError: If x is an integer array, `dtype` is real for complex input, or
        `moments` is not a `RunningMoments`.
      ValueError: If the groups do not divide the features, both or neither of
        `num_groups` and `group_size` are given, the time is reduced, or is the feature
        axis, a shape or an axis does not fit, or epsilon is negative.
      NameError: If `axis_name` is not bound.

    Reference:
      Luo and Mesgarani, 2019, Conv-TasNet: Surpassing Ideal Time-Frequency Magnitude
      Masking for Speech Separation, the cumulative layer normalization (cLN)
      (https://arxiv.org/abs/1809.07454). Chan, Golub and LeVeque, 1979, Updating
      formulae and a pairwise algorithm for computing sample variances, section 2.

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[[0.0, 2.0], [2.0, 0.0], [6.0, 2.0]]])  # batch, time, features
      >>> y, _ = jaxnorm.causal_group_norm(x)
      >>> y.round(3)
      Array([[[-1.,  1.],
              [ 1., -1.],
              [ 2.,  0.]]], dtype=float32)
      >>> first, moments = jaxnorm.causal_group_norm(x[:, :1])
      >>> rest, moments = jaxnorm.causal_group_norm(x[:, 1:], moments)
      >>> rest.round(3)
      Array([[[ 1., -1.],
              [ 2.,  0.]]], dtype=float32)
    """
    x = check_inexact(x, "x")
    time, feature = _time_and_feature(time_axis, feature_axes, x)
    space = _space(reduction_axes, time, feature, x.ndim)
    size = group_length(x.shape[feature], num_groups, group_size)
    groups = Blocks(feature, size)
    reduction = Reduction.over(x, space, axis_name, axis_index_groups, groups)
    result = output_dtype(dtype, x=x, scale=scale, bias=bias)
    scale, bias = align_affine(x, scale, bias, (feature,), scale_offset)
    spec = Prefixes(time, reduction, check_epsilon(epsilon), result)
    dropped = tuple(sorted((*space, time)))
    if moments is None:
        # One array of zeros, not those of `init_running_moments`: it is saved.
        zero = jnp.zeros((1,) * x.ndim, real_dtype(accumulation_dtype(x.dtype)))
        start = RunningMoments(zero, zero, jnp.ones_like(zero), zero, zero, zero)
    else:
        shape = list(x.shape)
        shape[feature] //= size
        _check_moments(moments, sizes(tuple(shape), other_axes(dropped, x.ndim)), x)
        start = jax.tree.map(lambda value: jnp.expand_dims(value, dropped), moments)
    mask = align_mask(mask, x)
    y, new = normalize_by_prefixes(spec, x, start, scale, bias, mask)
    new = jax.tree.map(lambda value: jnp.squeeze(value, dropped), new)
    if moments is not None:
        new = RunningMoments(*map(shard_as, moments, new))
    return y, new


def _time_and_feature(time_axis: int, feature_axes: Axes, x: Array) -> tuple[int, int]:
    """Returns the time axis and the feature axis, which must differ.

    Raises:
      ValueError: If they are equal, or out of range.
    """
    time = canonical_axis(time_axis, x.ndim, "time_axis")
    feature = canonical_axis(feature_axes, x.ndim)
    if time == feature:
        raise ValueError(
            f"time_axis must not be the feature axis, got {time_axis} and "
            f"{feature_axes} for an input of shape {x.shape}. Does the input lack an "
            "axis of features? Add one: x[..., None]."
        )
    return time, feature


def _space(
    reduction_axes: Axes | None, time: int, feature: int, ndim: int
) -> tuple[int, ...]:
    """Returns the axes that are reduced at each step in addition to the features.

    Raises:
      ValueError: If the given axes include the time, or lack the features. Or if none
        are given, and the first axis is one of the two.
    """
    if reduction_axes is None:
        if time == 0:
            others = other_axes((time,), ndim)
            raise ValueError(
                "reduction_axes must be given with time_axis=0, since by default the "
                f"first axis is the batch, got None for an input of rank {ndim}. For "
                f"one sequence pass reduction_axes={others}; for a batch, omit the "
                "batch axis."
            )
        return other_axes((batch_axis((feature,)), time, feature), ndim)
    axes = group_axes(reduction_axes, feature, ndim)
    if time in axes:
        raise ValueError(
            f"reduction_axes must not include time_axis={time}, since each step has "
            f"separate moments, got {reduction_axes!r}. To reduce over all steps, use "
            "group_norm."
        )
    return axes


def _check_moments(moments: RunningMoments, shape: tuple[int, ...], x: Array) -> None:
    """Checks that the user passed `RunningMoments` that fit x.

    Raises:
      TypeError: If they are not, hold integers, or are complex for real input.
      ValueError: If they have another shape.
    """
    given = jnp.shape(moments.count) if isinstance(moments, RunningMoments) else shape
    if given != shape:
        raise ValueError(
            f"moments must have the shape {shape} for an input of shape {x.shape}: the "
            "axes that are neither reduced nor the time, with groups in place of "
            f"features; got {given}. Pass the moments that the previous call "
            f"returned, or at the start init_running_moments({shape}) or None."
        )
    check_running_moments(moments, shape, x.dtype)
