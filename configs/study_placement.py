"""Is a norm better before or after the activation?

python examples/studies/run.py placement
"""

import runpy
from pathlib import Path

import ml_collections

_studies = runpy.run_path(str(Path(__file__).with_name("studies.py")))


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns a sweep of placements and learning rates."""
    config = _studies["get_config"](size)
    config.norm = "batch"
    config.sweep.placement = ("before_activation", "after_activation", "none")
    config.sweep.learning_rate = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    return config
