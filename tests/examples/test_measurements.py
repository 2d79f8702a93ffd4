"""The measurements run, and show what examples/README.md says of them.

Each is a process, compiled as for users. In the default tier `tests/test_cost.py` and
its neighbours count the same bytes and collectives.
"""

import os
import subprocess
import sys

import pytest


@pytest.fixture
def rows(root):
    """Runs a script; returns the cells of the tables that it prints."""

    def rows(script, *options):
        result = subprocess.run(
            [sys.executable, str(root / "examples" / script), *options],
            capture_output=True,
            text=True,
            timeout=1200,
            env={**os.environ, "XLA_FLAGS": ""},  # what users run
        )
        assert result.returncode == 0, result.stderr
        lines = [line for line in result.stdout.splitlines() if line.startswith("|")]
        return [[c.strip() for c in line.strip("| ").split("|")] for line in lines]

    return rows


@pytest.mark.slow
def test_benchmark(rows):
    options = ["--shape=16,4,4,32", "--dtype=bfloat16", "--repeats=2"]
    options += ["--norm=batch", "--norm=layer"]
    saved = {tuple(row[:4]): row[-1] for row in rows("benchmark.py", *options)}
    for norm in ("batch", "layer"):
        ours = float(saved[norm, "16x4x4x32", "bfloat16", "jaxnorm"])
        # in an x so small, vectors weigh almost as much
        assert 2 <= ours < 4
        assert float(saved[norm, "16x4x4x32", "bfloat16", "flax.linen"]) > 2 * ours


@pytest.mark.slow
def test_the_script_counts_the_promised_collectives(rows):
    counts = {tuple(row[:2]): row[2:] for row in rows("collectives.py")}
    assert counts["jit", "jaxnorm"] == ["1", "2"]
    assert counts["shard_map", "jaxnorm"] == ["1", "2"]
    assert counts["shard_map, check_vma=False", "jaxnorm"] == ["2", "3"]


@pytest.mark.slow
def test_accuracy(rows, root, tmp_path):
    table = rows("accuracy.py", f"--figures={tmp_path}")
    errors = {row[0]: row[1:] for row in table}
    exact = ("jaxnorm, warm", "jaxnorm, cold, two passes", "jaxnorm, layer norm")
    for name in exact:
        assert max(map(float, errors[name])) < 1e-5
    drawn = {path.name for path in tmp_path.iterdir()}
    assert drawn == {path.name for path in (root / "examples/figures").iterdir()}
    assert max(map(float, errors["jaxnorm, cold"])) < 10


@pytest.mark.slow
def test_scaling(rows):
    # Three layers: one each forward, and at most one each backward; what they carry is
    # five numbers a feature, on any number of devices.
    cells = {row[1]: row for row in rows("scaling.py", "--devices=16")}
    for name in ("all devices", "groups of 8"):
        assert int(cells[name][4]) <= 6
        assert cells[name][5] == f"{4 * 5 * (32 + 64 + 128):,}"


@pytest.mark.slow
def test_folding(rows):
    # Times are not judged here; that both models agree is checked by the script.
    options = ["--batch=2", "--repeats=2", "--dtype=bfloat16"]
    cells = {tuple(row[:2]): row[2:] for row in rows("folding.py", *options)}
    assert all(float(cell.split()[0]) > 0 for cell in cells["2", "bfloat16"])


@pytest.mark.slow
def test_checkpointing(rows, tmp_path):
    options = ["--pairs=2", "--every=1", "--num_train=200", f"--directory={tmp_path}"]
    times = {row[0]: row[1:3] for row in rows("checkpointing.py", *options)}
    for name in ("wall", "processor"):
        assert all(float(seconds) > 0 for seconds in times[name])
    assert not any(tmp_path.iterdir())


def test_epochs_with_checkpoints_are_compared_to_those_around_them(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "examples")
    import checkpointing

    # Two to warm up; then without, with, without, with, without.
    cells = checkpointing.row("wall", [9.0, 9.0, 2.0, 3.0, 2.0, 6.0, 4.0])
    assert cells["longer by"] == "+75.0%"  # between +50 and +100%
    assert float(cells["an epoch without, s"]) == 2
    assert float(cells["with, s"]) == 4.5
