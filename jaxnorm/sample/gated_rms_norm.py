"""Root mean square normalization with a gate, as in state space models."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Literal

import jax
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Inexact, Shaped

from jaxnorm._core.arguments.axes import Axes, canonical_axes, canonical_axis
from jaxnorm._core.arguments.validation import check_flags
from jaxnorm._core.arrays.dtypes import (
    accumulation_dtype,
    check_inexact,
    check_real,
    output_dtype,
    real_dtype,
)
from jaxnorm._core.arrays.rematerialization import KEEP_MOMENTS
from jaxnorm._core.arrays.sharding import shard_as
from jaxnorm._core.call import Call
from jaxnorm._core.moments.compute_moments import compute_mean_square
from jaxnorm._core.reductions.collectives import Groups
from jaxnorm._core.reductions.masking import (
    valid_or_finite,
    zero_masked,
    zero_masked_nonfinite,
)
from jaxnorm._core.reductions.reduction import Blocks, Reduction
from jaxnorm._core.standardize import Standardization, standardize
from jaxnorm.sample.group_norm import group_axes, group_length

Activation = Literal["silu", "sigmoid"]
_ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "sigmoid": jax.nn.sigmoid,
}


def gated_rms_norm(
    x: Inexact[Array, "..."],
    gate: Inexact[Array, "..."],
    scale: Inexact[Array, "..."] | None = None,
    *,
    gate_first: bool = False,
    activation: Activation = "silu",
    num_groups: int | None = None,
    group_size: int | None = None,
    reduction_axes: Axes = -1,
    feature_axes: Axes = -1,
    epsilon: float = 1e-6,
    scale_offset: float = 0.0,
    mask: Shaped[Array, "..."] | None = None,
    axis_name: str | Sequence[str] | None = None,
    axis_index_groups: Groups | None = None,
    dtype: DTypeLike | None = None,
) -> Array:
    """Divides each example by its root mean square, and gates it before or after.

    The mean is over `reduction_axes`; with groups, it is over a group of adjacent
    features and all other `reduction_axes`. With a = activation(gate)::

        y = x / sqrt(mean(|x|^2) + epsilon) * (scale_offset + scale) * a

    With `gate_first`, the statistics are those of the gated input::

        u = x * a
        y = u / sqrt(mean(|u|^2) + epsilon) * (scale_offset + scale)

    Weights that were trained in one order do not work in the other. Gated DeltaNet and
    Qwen3-Next normalize first; Mamba 2 and Zamba2 gate first, in groups.

    Everything is computed in float32 or wider; only y is rounded to a narrower dtype.
    The backward pass keeps x, gate, and one number for each group of each example. If
    the sum of squares exceeds the range of the dtype, y is 0.

    Args:
      x: Input of any shape; floating or complex.
      gate: Input of the activation, of the shape of x; real.
      scale: Sizes of the feature axes, ascending; or the rank of x with 1 where shared.
        If None, y is not scaled, whatever the offset.
      gate_first: Whether x is gated before it is normalized.
      activation: "silu", gate * sigmoid(gate), or "sigmoid".
      num_groups: Number of groups of features; divides the number of features. Without
        `num_groups` and `group_size`, there are no groups.
      group_size: Number of features in a group; divides the number of features.
      reduction_axes: The axis or axes to average over; with groups, they include the
        feature axis.
      feature_axes: The axis or axes of scale; with groups, the one feature axis.
      epsilon: Added to the mean square; at least 0. Where both are 0, y is 0.
      scale_offset: As in `jaxnorm.rms_norm`.
      mask: As in `jaxnorm.layer_norm`, for both x and gate: if x or gate is not finite
        in a masked element, its y is 0, with no gradient.
      axis_name: As in `jaxnorm.layer_norm`: one collective forward and one backward.
        If each device has whole groups (heads), none is needed. If features are divided
        over devices, the i-th groups of all devices form one group.
      axis_index_groups: As in `jaxnorm.layer_norm`.
      dtype: Dtype of y; by default what x, gate and scale promote to.

    Returns:
      y, of the shape of x.

    Raises:
      TypeError: If x or gate is an integer array, gate is complex, or `dtype` is real
        for complex input.
      ValueError: If the shape of gate is not that of x, the activation is another, both
        `num_groups` and `group_size` are given or do not divide the features, a shape,
        an axis or the groups do not fit, or epsilon is negative.
      NameError: If `axis_name` is not bound.

    Reference:
      Dao and Gu, 2024, Transformers are SSMs (Mamba 2; gated first;
      https://arxiv.org/abs/2405.21060). Yang, Kautz and Hatamizadeh, 2024, Gated Delta
      Networks (normalized first; https://arxiv.org/abs/2412.06464).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> x = jnp.array([[2.0, -2.0, 4.0, 4.0]])
      >>> gate = jnp.array([[0.0, 2.0, 0.0, 2.0]])
      >>> jaxnorm.gated_rms_norm(x, gate, num_groups=2).round(2)
      Array([[ 0.  , -1.76,  0.  ,  1.76]], dtype=float32)
      >>> jaxnorm.gated_rms_norm(x, gate, num_groups=2, gate_first=True).round(2)
      Array([[ 0.  , -1.41,  0.  ,  1.41]], dtype=float32)
    """
    x, gate = check_inexact(x, "x"), check_inexact(gate, "gate")
    check_flags(gate_first=gate_first)
    check_real("its activation is that of a real number", gate=gate)
    if gate.shape != x.shape:
        raise ValueError(
            f"gate must have the shape of x, {x.shape}, got {gate.shape}. Repeat a "
            "shared gate: jnp.broadcast_to(gate, x.shape)."
        )
    if activation not in tuple(_ACTIVATIONS):
        raise ValueError(
            f"activation must be one of {', '.join(map(repr, _ACTIVATIONS))}, got "
            f"{activation!r}."
        )
    if num_groups is None and group_size is None:
        reduced, blocks = canonical_axes(reduction_axes, x.ndim, "reduction_axes"), None
    else:
        feature_axis = canonical_axis(feature_axes, x.ndim)
        reduced = group_axes(reduction_axes, feature_axis, x.ndim)
        size = group_length(x.shape[feature_axis], num_groups, group_size)
        blocks = Blocks(feature_axis, size)
    features = canonical_axes(feature_axes, x.ndim)
    reduction = Reduction.over(x, reduced, axis_name, axis_index_groups, blocks)
    dtype = output_dtype(dtype, x=x, gate=gate, scale=scale)
    spec = Standardization(reduction, epsilon, dtype, center=False)
    call = Call.parse(x, scale, None, mask, features, spec, scale_offset)
    # Otherwise the gated input, or the scale times the gate, would be kept in float32.
    normalize = jax.checkpoint(
        functools.partial(_normalize, call.spec, _ACTIVATIONS[activation], gate_first),
        policy=KEEP_MOMENTS,
    )
    return normalize(call.x, shard_as(x, gate), call.scale, call.mask)


def _normalize(
    spec: Standardization,
    activate: Callable[[Array], Array],
    gate_first: bool,
    x: Array,
    gate: Array,
    scale: Array,
    mask: Array | None,
) -> Array:
    wide = accumulation_dtype(spec.dtype, x.dtype, gate.dtype)
    valid = valid_or_finite(mask, gate)
    gate = zero_masked(valid, gate).astype(real_dtype(wide))
    factor = zero_masked(valid, activate(gate)).astype(wide)
    if gate_first:
        x = zero_masked_nonfinite(mask, x, x).astype(wide) * factor
    moments = compute_mean_square(x, spec.reduction, mask=mask)
    bias = jnp.zeros((1,) * x.ndim, wide)
    unrounded = dataclasses.replace(spec, dtype=wide, rematerialized=gate_first)
    y = standardize(unrounded, x, moments, scale, bias, mask)
    # With the factor as part of the scale, XLA for GPUs would read x twice.
    return (y if gate_first else y * factor).astype(spec.dtype)
