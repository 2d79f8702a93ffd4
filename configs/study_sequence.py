"""Which norms suit networks that read digits row by row?

python examples/studies/run.py sequence
"""

import runpy
from pathlib import Path

import ml_collections

_studies = runpy.run_path(str(Path(__file__).with_name("studies.py")))


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns a sweep of models and of learning rates."""
    config = _studies["get_config"](size)
    full = size == "full"
    config.features = 128 if full else 16
    config.num_blocks = 4 if full else 2  # of the transformer
    config.num_heads = 4 if full else 2
    config.num_steps = 2_000 if full else 200
    config.max_gradient_norm = 1.0
    config.recalibrated_with = 1_000  # training examples, at most
    config.sweep.model = (
        "LSTM, none",
        "LSTM, layer",
        "LSTM, recurrent_batch",
        "transformer, none",
        "transformer, layer",
        "transformer, rms",
        "transformer, batch",
        "transformer, dynamic_tanh",
    )
    config.sweep.learning_rate = (0.001, 0.003, 0.01, 0.03, 0.1)
    return config
