"""What changes when devices synchronize their statistics?

python examples/studies/run.py synchronization
"""

import runpy
from pathlib import Path

import ml_collections

_studies = runpy.run_path(str(Path(__file__).with_name("studies.py")))


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns a sweep of examples on a device and of who shares statistics."""
    config = _studies["get_config"](size)
    config.devices = 8
    # However large a batch, training sees so many examples.
    config.num_examples = 240_000 if size == "full" else 8_192
    # For a batch of 128 over all devices; in proportion to the size of others.
    config.learning_rate = 0.1
    config.sweep.per_device = (2, 4, 16)
    config.sweep.shared_by = ("all", "pairs", "none")
    return config
