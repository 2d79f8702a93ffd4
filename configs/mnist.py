"""All of MNIST, through TensorFlow Datasets.

    python examples/mnist/main.py --config=configs/mnist.py

Test accuracy after epochs 1 to 5, seed 0: 98.77, 99.23, 99.21, 99.38, 99.45% (with
--config.parallelism=pmap).
"""

import runpy
from pathlib import Path

import ml_collections

# By path, since a configuration is itself loaded by path, from any directory.
_default = runpy.run_path(str(Path(__file__).with_name("default.py")))


def get_config() -> ml_collections.ConfigDict:
    """Returns the default configuration with the changes for the full data set."""
    config = _default["get_config"]()
    config.dataset = "mnist"
    config.norm_placement = "before_activation"
    config.max_shift = 2
    # In so few epochs weights move fast, and an average over 100 steps lags behind.
    config.bn_momentum = 0.9
    config.schedule = "cosine"
    return config
