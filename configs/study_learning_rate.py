"""Do norms allow larger steps, and forgive a bad initialization?

python examples/studies/run.py learning_rate
"""

import runpy
from pathlib import Path

import ml_collections

_studies = runpy.run_path(str(Path(__file__).with_name("studies.py")))


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns a sweep of nets, norms, learning rates and initial scales."""
    config = _studies["get_config"](size)
    full = size == "full"
    config.widths = 8 * (32 if full else 8,)  # of the convolutions
    config.dense_widths = 8 * (256 if full else 32,)
    config.num_steps = 1_000 if full else 100
    config.sweep.net = ("cnn", "mlp")
    config.sweep.norm = ("none", "batch", "layer")
    config.sweep.learning_rate = (0.01, 0.05, 0.2, 1.0)
    config.sweep.init_scale = (0.3, 1.0, 3.0)
    return config
