"""Flax's own normalization tests pass with our classes in the place of Flax's.

They come from the source distribution of the installed version, and run in a process of
their own, under the standard dtype promotion that they are written for.
"""

import subprocess
import sys
import tarfile
from importlib import metadata

import pytest

DROP_INS = ("BatchNorm",)

RUN = f"""
import sys
import pytest
import flax.linen
import jaxnorm.linen

used = set()
for name in {DROP_INS!r}:
    ours = getattr(jaxnorm.linen, name)

    def construct(*args, _ours=ours, _name=name, **kwargs):
        used.add(_name)
        return _ours(*args, **kwargs)

    setattr(flax.linen, name, construct)

status = pytest.main(sys.argv[1:])
missing = set({DROP_INS!r}) - used
sys.exit(f"never constructed: {{missing}}" if missing else status)
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


@pytest.mark.network
def test_flax_normalization_tests_pass_with_our_classes(tmp_path):
    sources = flax_sources(tmp_path)
    tests = sources / "tests" / "linen" / "linen_test.py"
    options = ["-q", "-rs", "-p", "no:cacheprovider", "-c", "/dev/null"]
    result = subprocess.run(
        [sys.executable, "-c", RUN, f"{tests}::NormalizationTest", *options],
        capture_output=True,
        text=True,
        cwd=sources,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    summary = result.stdout.strip().splitlines()[-1]
    assert " passed" in summary and "skipped" not in summary, output
