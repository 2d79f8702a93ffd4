"""Which norms tolerate test images that look different?

python examples/studies/run.py domain_shift
"""

import runpy
from pathlib import Path

import ml_collections

_studies = runpy.run_path(str(Path(__file__).with_name("studies.py")))


def get_config(size: str = "small") -> ml_collections.ConfigDict:
    """Returns a sweep of norms, each tested with clean and with other images."""
    config = _studies["get_config"](size)
    config.num_steps = 2_000 if size == "full" else 200
    config.adapted_with = 16  # test images of the other look, without labels
    config.sweep.norm = ("batch", "instance_batch", "instance", "adaptive")
    return config
