"""The default, but every device keeps batch statistics of its own.

    python examples/mnist/main.py --config=configs/unsynchronized.py

Test accuracy after epochs 1 to 5, seed 0: 94.7, 96.1, 97.1, 97.1, 97.3%, with the
statistics of the four devices merged; `stats_spread` falls from 37 to 4.4.
"""

import runpy
from pathlib import Path

import ml_collections

_default = runpy.run_path(str(Path(__file__).with_name("default.py")))


def get_config() -> ml_collections.ConfigDict:
    """Returns the default configuration without synchronization."""
    config = _default["get_config"]()
    config.sync = False
    return config
