"""Moments of each example and of the batch, from the same pass over x."""

import dataclasses

import jax
from jax import Array
from jax import numpy as jnp

from jaxnorm.batch.call import BatchCall
from jaxnorm.core.axes import batch_axis, other_axes
from jaxnorm.core.collectives import MappedAxis
from jaxnorm.core.dtypes import accumulation_dtype
from jaxnorm.core.measure import CenteredMoments, measure, named
from jaxnorm.core.normalize import normalize_with
from jaxnorm.core.reduction import Reduction


def instance_reduction(call: BatchCall) -> Reduction:
    """Returns the reduction over space: all axes but the batch and the features."""
    axes = other_axes((batch_axis(call.features), *call.features), call.x.ndim)
    return Reduction(axes, MappedAxis.nowhere())


def measure_instances(call: BatchCall, shift: Array) -> CenteredMoments:
    """Returns the moments of each feature of each example.

    Args:
      call: The arguments of the call. With `use_fast_variance=False` a first pass finds
        the mean of each, which then is the shift.
      shift: What to subtract otherwise, and the mean of what has no valid element: the
        running mean, of the feature shape.
    """
    return _measure(call, call.align(shift), use_fast_variance=call.use_fast_variance)


def measure_both(
    call: BatchCall, shift: Array
) -> tuple[CenteredMoments, CenteredMoments]:
    """Returns the moments of each example, and those of the batch, merged from them.

    One collective; two with `use_fast_variance=False`, and then their shifts differ.

    Args:
      call: The arguments of the call.
      shift: The running mean, the same on all instances.
    """
    instances = measure_instances(call, shift)
    return instances, call.pool(instances, _over_examples(call), call.align(shift))


def measure_spread(
    call: BatchCall,
) -> tuple[CenteredMoments, CenteredMoments | None]:
    """Returns the same where there is no running mean to shift by.

    In inference those of the batch are None, and no device is asked.
    """
    # A pass more, and no collective.
    zero = jnp.zeros((1,) * call.x.ndim, accumulation_dtype(call.x.dtype))
    instances = _measure(call, zero, use_fast_variance=False)
    if call.use_running_average:
        return instances, None
    return instances, call.pool(instances, _over_examples(call), zero)


def _over_examples(call: BatchCall) -> Reduction:
    return dataclasses.replace(call.reduction, axes=(batch_axis(call.features),))


def _measure(
    call: BatchCall, shift: Array, *, use_fast_variance: bool
) -> CenteredMoments:
    """Returns the moments of each example; x and the shift are saved, nothing else.

    The deviations that their derivative needs are computed again, which no device
    waits for.
    """

    @jax.checkpoint
    def run(x: Array, shift: Array) -> CenteredMoments:
        return measure(
            x,
            instance_reduction(call),
            mask=call.mask,
            shift=shift,
            use_fast_variance=use_fast_variance,
        )

    return named(run(call.x, shift))


def normalize_about(call: BatchCall, shift: Array, delta: Array, var: Array) -> Array:
    """Normalizes x with a mean of two parts, differentiated by JAX itself.

    What is saved for the backward pass is x and the arrays that are given.
    """
    dtype = accumulation_dtype(call.spec.dtype, call.x.dtype)

    @jax.checkpoint
    def normalize(
        x: Array, shift: Array, delta: Array, var: Array, scale: Array, bias: Array
    ) -> Array:
        deviation = x.astype(dtype) - shift.astype(dtype)
        return normalize_with(
            delta,
            var,
            deviation,
            scale,
            bias,
            call.mask,
            call.spec.epsilon,
            call.spec.dtype,
        )

    return normalize(call.x, shift, delta, var, call.scale, call.bias)
