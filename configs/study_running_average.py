"""Why does evaluation fail early in training, and what helps?

python examples/studies/run.py running_average
"""

import runpy
from pathlib import Path

import ml_collections

_studies = runpy.run_path(str(Path(__file__).with_name("studies.py")))


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns a sweep of running averages."""
    config = _studies["get_config"](size)
    config.norm = "batch"
    config.num_steps = 1_000 if size == "full" else 200
    config.eval_every = config.num_steps // 20
    config.recalibrated_with = 1_000  # training examples; precise
    config.sweep.average = (
        "momentum 0.9",
        "momentum 0.99",
        "momentum 0.999",
        "warm-up to 0.99",
        "cumulative",
        "precise",
    )
    return config
