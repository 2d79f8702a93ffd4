"""What compilers for accelerators make of our normalizers, beside those of flax.linen.

Of each program that `examples/compiled.py` measures by default: the cycles that the
compiler for a TPU estimates, and the memory traffic on a GPU, over those of flax.linen;
the worst of its shapes, to three digits. On the GPU of a U-Net with group norm, too,
most of whose sums have two stages there. Compilers change what they make of a program,
so that the table holds for the versions that CI installs.
"""

import collections
import json
import os
import subprocess
import sys

import compiled
import pytest

PROGRAMS = ["batch", "layer", "rms", "group", "instance", "chain"]
BARS = dict.fromkeys(PROGRAMS, 1.03) | {"chain": 1.0, "unet": 1.0}
# What is not below its bar yet, by program, step and dtype. A row moves down only; one
# that has reached the bar leaves.
BEYOND = {
    "v5e:2x2": {
        ("layer", "forward", "float32"): 1.074,
        ("layer", "forward", "bfloat16"): 1.064,
        ("layer", "training", "float32"): 1.032,
        ("layer", "training", "bfloat16"): 1.032,
        ("chain", "forward", "float32"): 1.012,
        ("chain", "forward", "bfloat16"): 1.012,
    },
    "h100": {
        ("instance", "forward", "float32"): 1.032,
        ("instance", "forward", "bfloat16"): 1.053,
        ("chain", "training", "bfloat16"): 1.061,
        ("unet", "forward", "float32"): 1.057,
        ("unet", "forward", "bfloat16"): 1.066,
    },
}
MARGIN = 1.01


def worst_ratios(target, program, figure, lines):
    """Compiles a program; returns the worst of the shapes for each step and dtype."""
    options = [f"--target={target}", f"--program={program}", "--devices=1"]
    result = subprocess.run(
        [sys.executable, compiled.__file__, *options, f"--json={lines}"],
        capture_output=True,
        text=True,
        env={**os.environ, "XLA_FLAGS": ""},  # what users run
    )
    assert result.returncode == 0, result.stderr
    found = collections.defaultdict(dict)
    for line in map(json.loads, lines.read_text().splitlines()):
        case = line["step"], line["dtype"], *line["shape"]
        found[case][line["library"]] = line[figure]
    ratios = collections.defaultdict(float)
    for (step, dtype, *_), of in found.items():
        ratio = round(of["jaxnorm"] / of["flax.linen"], 3)
        ratios[program, step, dtype] = max(ratio, ratios[program, step, dtype])
    return ratios


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "package", "figure", "program"),
    [
        *(
            pytest.param(
                "v5e:2x2", "libtpu", "cycles", name, marks=pytest.mark.tpu_compiler
            )
            for name in PROGRAMS
        ),
        *(
            pytest.param(
                "h100",
                "jax_cuda12_plugin",
                "traffic",
                name,
                marks=pytest.mark.gpu_compiler,
            )
            for name in [*PROGRAMS, "unet"]
        ),
    ],
)
def test_beside_flax(target, package, figure, program, tmp_path):
    pytest.importorskip(package)
    beyond = {case: of for case, of in BEYOND[target].items() if case[0] == program}
    ratios = worst_ratios(target, program, figure, tmp_path / "lines")
    bars = {
        case: beyond[case] * MARGIN if case in beyond else BARS[program]
        for case in ratios
    }
    assert beyond.keys() <= bars.keys()
    assert {case: ratio for case, ratio in ratios.items() if ratio > bars[case]} == {}
    reached = [case for case in beyond if ratios[case] <= BARS[program]]
    assert not reached, f"below their bars by now; they leave the table: {reached}"
