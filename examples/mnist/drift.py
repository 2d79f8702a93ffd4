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
    # What else a layer keeps, such as its count of updates, is equal on all devices.
    merged = {
        name: merge(part) if isinstance(part, dict) else part[0]
        for name, part in statistics.items()
    }
    if {"mean", "var", "std"} & set(statistics):
        moments = functools.reduce(jaxnorm.merge_moments, _per_device(statistics))
        names = {"mean": moments.mean, "var": moments.var, "std": moments.var**0.5}
        merged |= {name: names[name] for name in names if name in statistics}
    return jax.device_get(merged)


def _per_device(layer: dict[str, np.ndarray]) -> list[jaxnorm.Moments]:
    # Some layers keep a mean alone, some a variance, batch renorm a deviation.
    var = layer["std"] ** 2 if "std" in layer else layer.get("var")
    mean = layer.get("mean")
    mean = np.zeros_like(var) if mean is None else mean
    var = np.zeros_like(mean) if var is None else var
    one = jnp.ones(mean.shape[1:], jnp.float32)
    return [
        jaxnorm.Moments(one, jnp.asarray(m), jnp.asarray(v))
        for m, v in zip(mean, var, strict=True)
    ]
