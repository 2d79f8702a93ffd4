"""Moments of each example and of the batch, from the same pass over x."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TypeVar

import jax
from jax import Array
from jax import numpy as jnp

from jaxnorm.batch.call import BatchCall
from jaxnorm.core.axes import batch_axis, other_axes
from jaxnorm.core.collectives import MappedAxis
from jaxnorm.core.dtypes import accumulation_dtype
from jaxnorm.core.masks import select, usable
from jaxnorm.core.measure import MOMENTS_NAME, CenteredMoments, inverse_std, measure
from jaxnorm.core.moments import Moments
from jaxnorm.core.normalize import normalize_with
from jaxnorm.core.reduction import Reduction
from jaxnorm.core.sharding import where
from jaxnorm.core.stats import Stats

_Result = TypeVar("_Result")


def as_a_whole(call: BatchCall, compute: Callable[[BatchCall], _Result]) -> _Result:
    """Returns `compute(call)`, differentiated by JAX as one operation on x.

    x is cast to float32 or wider once, and so the cotangents that its moments and its
    normalization have are added before they are rounded. What is saved for the backward
    pass is x as it is, and the sums that the moments are made of: neither a reduction
    nor a collective is repeated there.
    """
    policy = jax.checkpoint_policies.save_only_these_names(MOMENTS_NAME)

    @functools.partial(jax.checkpoint, policy=policy)
    def run(x: Array) -> _Result:
        x = x.astype(accumulation_dtype(x.dtype))
        return compute(dataclasses.replace(call, x=x))

    return run(call.x)


def instance_reduction(call: BatchCall) -> Reduction:
    """Returns the reduction over space: all axes but the batch and the features."""
    axes = other_axes((batch_axis(call.features), *call.features), call.x.ndim)
    return Reduction(axes, MappedAxis.nowhere())


def measure_instances(
    call: BatchCall, shift: Array, *, use_fast_variance: bool | None = None
) -> CenteredMoments:
    """Returns the moments of each feature of each example.

    Args:
      call: The arguments of the call.
      shift: What to subtract, and the mean of what has no valid element: the running
        mean, aligned.
      use_fast_variance: As in the call. False: a first pass finds the mean of each,
        which then is the shift.
    """
    if use_fast_variance is None:
        use_fast_variance = call.use_fast_variance
    return measure(
        call.x,
        instance_reduction(call),
        mask=call.mask,
        shift=shift,
        use_fast_variance=use_fast_variance,
    )


def measure_both(
    call: BatchCall, shift: Array
) -> tuple[CenteredMoments, CenteredMoments]:
    """Returns the moments of each example, and those of the batch, merged from them.

    One collective; two with `use_fast_variance=False`, and then their shifts differ.

    Args:
      call: The arguments of the call.
      shift: The running mean, the same on all instances.
    """
    shift = call.align(shift)
    instances = measure_instances(call, shift)
    return instances, call.pool(instances, _over_examples(call), shift)


def measure_about_instances(
    call: BatchCall, running: Stats
) -> tuple[CenteredMoments, CenteredMoments, Moments | None]:
    """Returns the moments of each example, and what they are mixed with.

    That is what the batch normalizes with, about the same shifts, which in inference
    are the running statistics. The third are the batch's own moments, None there.

    Args:
      call: The arguments of the call.
      running: Running statistics, the same on all instances.
    """
    mean, var = call.align(running.mean), call.align(running.var)
    if call.use_running_average:
        instances = measure_instances(call, mean)
        delta = mean.astype(instances.shift.dtype) - instances.shift
        var = var.astype(instances.var.dtype)
        return instances, instances._replace(delta=delta, var=var), None
    instances, batch = measure_both(call, running.mean)
    # What has no valid element has no mean, and may be far from its shift.
    shift = where(instances.count > 0, instances.shift, batch.shift)
    reference = batch.or_where_empty(var).about(shift)
    return instances._replace(shift=shift), reference, call.per_feature(batch)


def measure_spread(
    call: BatchCall,
) -> tuple[CenteredMoments, CenteredMoments | None]:
    """Returns the same where there is no running mean to shift by.

    In inference those of the batch are None, and no device is asked.
    """
    # A pass more, and no collective.
    zero = jnp.zeros((1,) * call.x.ndim, accumulation_dtype(call.x.dtype))
    instances = measure_instances(call, zero, use_fast_variance=False)
    if call.use_running_average:
        return instances, None
    return instances, call.pool(instances, _over_examples(call), zero)


def _over_examples(call: BatchCall) -> Reduction:
    return dataclasses.replace(call.reduction, axes=(batch_axis(call.features),))


def normalize_about(
    call: BatchCall,
    shift: Array,
    delta: Array,
    var: Array,
    seen: Array | None = None,
) -> Array:
    """Normalizes x with a mean of two parts, differentiated by JAX itself.

    Where nothing was `seen`, if that is given, y is the bias.
    """
    dtype = accumulation_dtype(call.spec.dtype, call.x.dtype)
    valid = usable(call.mask, call.x)
    return normalize_with(
        delta,
        inverse_std(var, call.spec.epsilon, dtype, seen),
        select(valid, call.x).astype(dtype) - shift.astype(dtype),
        call.scale,
        call.bias,
        valid,
        call.spec.dtype,
    )
