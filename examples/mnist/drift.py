"""Running statistics that each device kept for itself: how far apart, and merged."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnorm


def spread(statistics: Any) -> float:
    """Returns the largest difference of one statistic between two devices.

    Args:
      statistics: a `batch_stats` collection with a leading axis of devices.
    """
    differences = jax.tree.map(lambda x: float(np.ptp(x, axis=0).max()), statistics)
    return max(jax.tree.leaves(differences), default=0.0)


def merge(statistics: Any) -> Any:
    """Returns one `batch_stats` collection for those of all devices.

    The devices saw equally many examples, so by the law of total variance the merged
    mean is the mean of means, and the merged variance is the mean of variances plus the
    variance of means.

    Args:
      statistics: a `batch_stats` collection with a leading axis of devices.
    """
    if "mean" not in statistics:
        return {name: merge(part) for name, part in statistics.items()}
    one = jnp.ones(statistics["mean"].shape[1:], jnp.float32)
    per_device = [
        jaxnorm.Moments(one, jnp.asarray(mean), jnp.asarray(var))
        for mean, var in zip(statistics["mean"], statistics["var"], strict=True)
    ]
    merged = functools.reduce(jaxnorm.merge_moments, per_device)
    # What else a layer keeps, such as its count of updates, is equal on all devices.
    rest = {name: value[0] for name, value in statistics.items()}
    return jax.device_get(rest | {"mean": merged.mean, "var": merged.var})
