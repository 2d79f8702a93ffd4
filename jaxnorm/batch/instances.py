"""Moments of each example and of the batch, from the same pass over x."""

import dataclasses
from typing import TypeVar

from jax import Array
from jax import numpy as jnp

from jaxnorm._core.arguments.axes import batch_axis, other_axes
from jaxnorm._core.arrays.dtypes import accumulation_dtype
from jaxnorm._core.arrays.sharding import where
from jaxnorm._core.batch_call import BatchCall
from jaxnorm._core.moments.compute_moments import compute_moments
from jaxnorm._core.moments.moments import Moments
from jaxnorm._core.moments.shifted_moments import ShiftedMoments
from jaxnorm._core.reductions.collectives import MappedAxes
from jaxnorm._core.reductions.reduction import Reduction
from jaxnorm._core.running.stats import Stats

_Result = TypeVar("_Result")


def instance_reduction(call: BatchCall) -> Reduction:
    """Returns the reduction over space: all axes but the batch and the features."""
    axes = other_axes((batch_axis(call.features), *call.features), call.x.ndim)
    return Reduction(axes, MappedAxes.none())


def compute_instance_moments(
    call: BatchCall, shift: Array, *, use_fast_variance: bool | None = None
) -> ShiftedMoments:
    """Returns the moments of each feature of each example.

    Args:
      call: The arguments of the call.
      shift: The aligned running mean. It is subtracted from x, and is the mean of
        instances without valid elements.
      use_fast_variance: By default, the option of the call. False: a first pass finds
        the mean of each instance, which is then the shift.
    """
    if use_fast_variance is None:
        use_fast_variance = call.use_fast_variance
    return compute_moments(
        call.x,
        instance_reduction(call),
        mask=call.mask,
        shift=shift,
        use_fast_variance=use_fast_variance,
    )


def compute_instance_and_batch_moments(
    call: BatchCall, shift: Array
) -> tuple[ShiftedMoments, ShiftedMoments]:
    """Returns the moments of each example and, merged from them, of the batch.

    It takes one collective, or two with `use_fast_variance=False`, when the shifts of
    examples differ.

    Args:
      call: The arguments of the call.
      shift: The running mean, the same on all instances.
    """
    shift = call.align(shift)
    instances = compute_instance_moments(call, shift)
    return instances, call.pool_moments(instances, _over_examples(call), shift)


def compute_moments_to_mix(
    call: BatchCall, running: Stats
) -> tuple[ShiftedMoments, ShiftedMoments, Moments | None]:
    """Returns the moments of each example, of the reference and of the batch.

    The reference is the batch in training, and the running statistics in inference; its
    moments have the shifts of the examples. The moments of the batch are None in
    inference.

    Args:
      call: The arguments of the call.
      running: Running statistics, the same on all instances.
    """
    mean, var = call.align(running.mean), call.align(running.var)
    if call.use_running_average:
        instances = compute_instance_moments(call, mean)
        delta = mean.astype(instances.shift.dtype) - instances.shift
        var = var.astype(instances.var.dtype)
        return instances, instances._replace(delta=delta, var=var), None
    instances, batch = compute_instance_and_batch_moments(call, running.mean)
    # Instances without valid elements have no mean, and may be far from their shift.
    shift = where(instances.count > 0, instances.shift, batch.shift)
    reference = batch.with_var_where_empty(var).with_shift(shift)
    return instances._replace(shift=shift), reference, call.per_feature(batch)


def compute_moments_without_shift(
    call: BatchCall,
) -> tuple[ShiftedMoments, ShiftedMoments | None]:
    """Returns moments of instances and of the batch, without a running mean as shift.

    In inference, the moments of the batch are None, and no collective runs.
    """
    # One pass more, and no collective.
    zero = jnp.zeros((1,) * call.x.ndim, accumulation_dtype(call.x.dtype))
    instances = compute_instance_moments(call, zero, use_fast_variance=False)
    if call.use_running_average:
        return instances, None
    return instances, call.pool_moments(instances, _over_examples(call), zero)


def _over_examples(call: BatchCall) -> Reduction:
    """Returns the reduction over the batch axis and devices alone."""
    return dataclasses.replace(call.reduction, axes=(batch_axis(call.features),))
