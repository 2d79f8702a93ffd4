"""Comparison and merging of the separate running statistics of devices."""

from typing import Any

import jax
import numpy as np

import jaxnorm.tools


def spread(statistics: Any) -> float:
    """Returns the largest difference of one statistic between two devices.

    Args:
      statistics: a `batch_stats` collection with a leading axis of devices.
    """
    differences = jax.tree.map(lambda x: float(np.ptp(x, axis=0).max()), statistics)
    return max(jax.tree.leaves(differences), default=0.0)


def merge(statistics: Any) -> Any:
    """Merges the `batch_stats` of all devices into one collection.

    The devices must have seen the same number of examples.

    Args:
      statistics: a `batch_stats` collection with a leading axis of devices.
    """
    leaves = jax.tree.leaves(statistics)
    parts = [
        jax.tree.map(lambda x, device=device: x[device], statistics)
        for device in range(len(leaves[0]) if leaves else 1)
    ]
    return jax.device_get(jaxnorm.tools.merge_batch_stats(parts))
