"""How do inputs of layers change in training, and gradients with depth?

python examples/studies/run.py activations
"""

import runpy
from pathlib import Path

import ml_collections

_studies = runpy.run_path(str(Path(__file__).with_name("studies.py")))


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns a sweep of norms in a deep plain net."""
    config = _studies["get_config"](size)
    config.widths = 8 * (32 if size == "full" else 8,)
    # At which the net learns without a norm, too.
    config.learning_rate = 0.05
    config.eval_every = config.num_steps // 50
    config.seen = 256  # training examples that are looked at, at most
    config.sweep.norm = ("none", "batch", "layer")
    return config
