"""Flax's own normalization tests pass with our classes in the place of Flax's.

They come from the source distribution of the installed version, and run in a process of
their own, under the standard dtype promotion that they are written for.
"""

import os
import subprocess
import sys
import tarfile
from importlib import metadata

import pytest

DROP_INS = (
    "BatchNorm",
    "LayerNorm",
    "RMSNorm",
    "GroupNorm",
    "InstanceNorm",
    "WeightNorm",
    "SpectralNorm",
)

# They expect what Flax computes from a mean of 1e6 that is rounded to float32, which is
# 0.04 off, where we are 1e-7 off. In float64 they expect what is right.
IN_FLOAT64 = {"LayerNorm": "test_layer_norm4", "InstanceNorm": "test_instance_norm3"}

RUN = """
import sys
import pytest
import flax.linen
import jaxnorm.linen

names, *options = sys.argv[1:]
names = set(names.split(","))
used = set()
for name in names:
    ours = getattr(jaxnorm.linen, name)

    def construct(*args, _ours=ours, _name=name, **kwargs):
        used.add(_name)
        return _ours(*args, **kwargs)

    setattr(flax.linen, name, construct)

status = pytest.main(options)
missing = names - used
sys.exit(f"never constructed: {missing}" if missing else status)
"""


def flax_sources(directory):
    """Downloads and unpacks the source distribution of the installed Flax."""
    release = f"flax-{metadata.version('flax')}"
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    source = ["--no-binary", ":all:", release.replace("-", "==")]
    subprocess.run([*pip, *source, "--dest", directory], check=True)
    with tarfile.open(directory / f"{release}.tar.gz") as archive:
        archive.extractall(directory, filter="data")
    return directory / release


def run(sources, names, expression, **environment):
    """Runs those that the expression selects; none may fail or be skipped."""
    tests = sources / "tests" / "linen" / "linen_test.py"
    options = ["-q", "-rs", "-p", "no:cacheprovider", "-c", "/dev/null"]
    command = [sys.executable, "-c", RUN, ",".join(names)]
    result = subprocess.run(
        [*command, f"{tests}::NormalizationTest", *options, "-k", expression],
        capture_output=True,
        text=True,
        cwd=sources,
        env=os.environ | environment,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    summary = result.stdout.strip().splitlines()[-1]
    assert " passed" in summary and "skipped" not in summary, output


@pytest.mark.network
def test_flax_normalization_tests_pass_with_our_classes(tmp_path):
    sources = flax_sources(tmp_path)
    wide = IN_FLOAT64.values()
    run(sources, DROP_INS, " and ".join(f"not {name}" for name in wide))
    run(sources, IN_FLOAT64, " or ".join(wide), JAX_ENABLE_X64="1")
