"""Normalization for JAX with explicit state.

Pure functions; those whose statistics cross examples return `(y, new_stats)`. Flax
modules over them are in `jaxnorm.linen`, imported by name.
"""

from jaxnorm.batch.batch_norm import batch_norm
from jaxnorm.core.measure import MOMENTS_NAME
from jaxnorm.core.moments import Moments, batch_moments, merge_moments
from jaxnorm.core.momentum import warmup_momentum
from jaxnorm.core.normalize import normalize
from jaxnorm.core.stats import (
    BatchStats,
    CountedBatchStats,
    init_batch_stats,
    update_batch_stats,
)
from jaxnorm.sample.group_norm import group_norm
from jaxnorm.sample.instance_norm import instance_norm
from jaxnorm.sample.layer_norm import layer_norm
from jaxnorm.sample.rms_norm import rms_norm

__all__ = [
    "MOMENTS_NAME",
    "BatchStats",
    "CountedBatchStats",
    "Moments",
    "batch_moments",
    "batch_norm",
    "group_norm",
    "init_batch_stats",
    "instance_norm",
    "layer_norm",
    "merge_moments",
    "normalize",
    "rms_norm",
    "update_batch_stats",
    "warmup_momentum",
]
