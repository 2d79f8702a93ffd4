"""The state of a normalizer, by its kind, for the x of entry.py."""

import jax
import numpy as np

import jaxnorm
from support.drawing import draw_stats, place
from support.normalizers.entry import FEATURES, STEPS


def draw_state(entry, rng, x):
    """The state of an entry, in float32; an empty tuple for none."""
    features = FEATURES - entry.options.get("instance_features", 0)
    match entry.state:
        case None:
            return ()
        case "renorm":
            # Far from any batch here: both corrections are clipped, so constant.
            mean, std = place(np.full(FEATURES, 9.0)), place(np.full(FEATURES, 7.0))
            return jaxnorm.RenormStats(mean, std, place(0.0))
        case "stream":
            # Counts of weights, no integers, so that all that is kept of them moves.
            count, (mean, var) = rng.uniform(1, 9, features), draw_stats(rng, features)
            rest = place(rng.uniform(-1e-8, 1e-8, features))
            return jaxnorm.RunningMoments(place(count), mean, var, rest, rest, rest)
        case "vector":
            # The last one of the iteration, where the gradient is the function's.
            matrix = np.asarray(x, np.float64).reshape(-1, FEATURES)
            return place(np.linalg.svd(matrix)[2][0])
    stats = draw_stats(rng, features)
    match entry.state:
        case "mean":
            return jaxnorm.MeanStats(stats.mean)
        case "var":
            return jaxnorm.VarStats(stats.var)
        case "steps":
            return jax.tree.map(lambda s: place(np.stack([s] * STEPS)), stats)
    return stats
