"""Every block of Python in the README runs, in order, in one fresh process."""

import pathlib
import re
import subprocess
import sys

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"
DEVICES = 'import jax; jax.config.update("jax_num_cpu_devices", 8)'


# The default tier runs the examples of the docstrings.
@pytest.mark.slow
def test_python_blocks_run():
    blocks = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    assert len(blocks) >= 6
    result = subprocess.run(
        [sys.executable, "-c", "\n".join([DEVICES, *blocks])],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
