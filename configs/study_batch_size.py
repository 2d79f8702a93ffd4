"""How do small batches hurt, and what helps?

python examples/studies/run.py batch_size
"""

import runpy
from pathlib import Path

import ml_collections

_studies = runpy.run_path(str(Path(__file__).with_name("studies.py")))


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns a sweep of sizes of the batch and of norms."""
    config = _studies["get_config"](size)
    full = size == "full"
    # However large a batch, training sees so many examples.
    config.num_examples = 240_000 if full else 8_192
    # For a batch of 128; in proportion to the size of others.
    config.learning_rate = 0.1
    config.ghost_size = 16  # at most; a smaller batch is one ghost
    config.reference_size = 64  # virtual
    config.recalibrated_with = 1_024  # training examples, at most; whole ghosts
    config.sweep.batch_size = (2, 8, 32, 512)
    config.sweep.norm = (
        "batch",
        "renorm",
        "ghost",
        "virtual",
        "adaptive",
        "group",
        "layer",
    )
    return config
