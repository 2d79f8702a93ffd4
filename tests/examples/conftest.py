"""Makes the files of examples/mnist importable as its main.py imports them."""

import os
import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Where Python looks first when it runs examples/mnist/main.py.
sys.path.insert(0, str(ROOT / "examples" / "mnist"))


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def mnist_dir():
    """Where TFDS has the whole of MNIST."""
    directory = Path(os.environ.get("TFDS_DATA_DIR", ""))
    if not (directory / "mnist").is_dir():
        pytest.skip("no MNIST in TFDS_DATA_DIR")
    return directory


@pytest.fixture(scope="session")
def get_config():
    """Loads a file of configs/ by its name, with some options changed."""

    def get(name="default", **changes):
        config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()
        with config.unlocked():
            config.update(changes)
        return config

    return get
