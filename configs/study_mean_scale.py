"""When do one-pass statistics fail, and what do two passes cost?

python examples/studies/run.py mean_scale
"""

import ml_collections
from ml_collections import config_dict


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns a sweep of methods and ratios of mean to standard deviation."""
    config = ml_collections.ConfigDict()
    config.size = size
    config.seeds = 3
    config.workdir = config_dict.placeholder(str)  # None: in the temporary directory
    # What is timed: the shape, and how often, of which the fastest counts.
    config.shape = (128, 28, 28, 64) if size == "full" else (64, 14, 14, 64)
    config.repeats = 100
    config.sweep = ml_collections.ConfigDict()
    config.sweep.method = (
        "jaxnorm, warm",
        "jaxnorm, cold",
        "jaxnorm, cold, two passes",
        "flax.linen",
        "flax.linen, two passes",
    )
    config.sweep.ratio = (1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6)
    return config
