"""How do norms combine with dropout and weight decay?

python examples/studies/run.py regularization
"""

import runpy
from pathlib import Path

import ml_collections

_studies = runpy.run_path(str(Path(__file__).with_name("studies.py")))


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns a sweep of norms, dropout and decay, with few digits to train with."""
    config = _studies["get_config"](size)
    full = size == "full"
    config.num_train = 5_000 if full else 500
    config.batch_size = 128 if full else 50
    config.num_steps = 4_000 if full else 300
    config.sweep.norm = ("none", "batch", "layer")
    config.sweep.dropout_rate = (0.0, 0.2, 0.5)
    config.sweep.weight_decay = (0.0, 1e-3, 1e-2)
    return config
