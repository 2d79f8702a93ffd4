"""What layer, group and instance norm share: moments of each example's own."""

from collections.abc import Sequence

from jax import Array
from jax.typing import DTypeLike

from jaxnorm.core.affine import affine
from jaxnorm.core.axes import align_mask
from jaxnorm.core.collectives import Groups, MappedAxis
from jaxnorm.core.measure import measure_alone, measure_power
from jaxnorm.core.reduction import Blocks, Reduction, SingleValue
from jaxnorm.core.standardize import Standardization, standardize
from jaxnorm.core.validation import check_epsilon, check_flags


def normalize_by_own_moments(
    x: Array,
    scale: Array | None,
    bias: Array | None,
    *,
    reduction_axes: tuple[int, ...],
    feature_axes: tuple[int, ...],
    blocks: Blocks | None = None,
    center: bool = True,
    allow_single_value: SingleValue = True,
    scale_offset: float = 0.0,
    round_before_scale: bool = False,
    epsilon: float,
    mask: Array | None,
    axis_name: str | Sequence[str] | None,
    axis_index_groups: Groups | None,
    dtype: DTypeLike | None,
) -> Array:
    """Normalizes x with its moments over some axes, and applies scale and bias.

    There is no running mean to shift by: see `core/near_mean.py` for what is.

    Args:
      x: Input, checked to be inexact.
      scale: As the user gives it.
      bias: Likewise.
      reduction_axes: Canonical axes that are reduced as a whole.
      feature_axes: Canonical axes of scale and bias.
      blocks: An axis of which each block is reduced.
      center: Whether the mean is subtracted.
      allow_single_value: Whether a statistic may be of one value, which it erases if
        the mean is subtracted; as the user gives it, like all that follow.
      scale_offset: Is added to a given scale, in float32 or wider.
      round_before_scale: See `jaxnorm.rms_norm`.
      epsilon: See `jaxnorm.layer_norm`.
      mask: See `jaxnorm.layer_norm`.
      axis_name: See `jaxnorm.layer_norm`.
      axis_index_groups: See `jaxnorm.layer_norm`.
      dtype: See `jaxnorm.layer_norm`.
    """
    epsilon = check_epsilon(epsilon)
    check_flags(round_before_scale=round_before_scale)
    scale, bias, result = affine(x, scale, bias, feature_axes, dtype, scale_offset)
    mask = None if mask is None else align_mask(mask, x)
    across = MappedAxis.parse(axis_name, axis_index_groups, x)
    reduction = Reduction(reduction_axes, across, blocks)
    reduction.check_several(x, allow_single_value)
    measure = measure_alone if center else measure_power
    moments = measure(x, reduction, mask=mask)
    spec = Standardization(
        reduction,
        epsilon,
        result,
        center=center,
        round_before_scale=round_before_scale,
    )
    return standardize(spec, x, moments, scale, bias, mask)
