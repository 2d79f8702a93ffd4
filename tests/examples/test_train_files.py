"""The files to copy, examples/train_*.py: with arrays of another kind, and as scripts.

The files that they save are deleted in part, to see them go on.
"""

import ast
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest
from support.tiers import matrix

FILES = sorted((Path(__file__).resolve().parents[2] / "examples").glob("train_*.py"))
PACKAGES = {"flax", "jax", "jaxnorm", "numpy", "optax", "orbax", "sklearn", "tqdm"}

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def draw(size, rng):
    """Returns images of five kinds, of 9 x 7 x 3 whole numbers, and labels."""
    patterns = np.random.default_rng(0).uniform(0, 200, (5, 1, 1, 3))
    labels = np.arange(size) % 5
    noise = rng.uniform(0, 50, (size, 9, 7, 3))
    return (patterns[labels] + noise).astype(np.uint8), labels


@pytest.fixture
def start(standard_promotion, compiled_once, monkeypatch, capsys, rng, tmp_path):
    """Calls a file's `main` with the arrays of `draw`; returns what it prints."""
    # Several batches, of which the last one leaves devices without an example.
    data = draw(66, rng), draw(34, rng)

    def start(file, *options):
        module = importlib.import_module(file.stem)
        monkeypatch.setattr(module, "load_data", lambda: data)
        monkeypatch.setattr(
            module, "WIDTHS", (8,)
        )  # most of the time goes into tracing
        module.main(["--batch-size=32", f"--workdir={tmp_path}", *options])
        return capsys.readouterr().out

    return start


def epochs(printed):
    return re.findall(r"epoch (\d+): loss ([\d.]+), accuracy ([\d.]+)", printed)


def test_there_are_four():
    names = [file.stem.removeprefix("train_") for file in FILES]
    assert names == ["linen", "nnx", "pmap", "shard_map"]


@pytest.mark.parametrize(
    "stem",
    matrix([f.stem for f in FILES], often=["train_nnx"]),
)
def test_trains_on_other_arrays_and_goes_on(stem, start, tmp_path):
    (file,) = (file for file in FILES if file.stem == stem)
    printed = start(file, "--epochs=3")
    losses = [float(loss) for _, loss, _ in epochs(printed)]
    assert losses[-1] < min(losses[0], 0.9 * np.log(5))  # what guessing costs

    shutil.rmtree(tmp_path / "3")
    again = start(file, "--epochs=3")
    assert "restored: epoch 2" in again
    # Parameters, optimizer, statistics and order are what they were.
    assert epochs(again) == epochs(printed)[-1:]


@each_file
def test_a_checkpoint_of_another_model_is_refused(file, start, tmp_path, capsys):
    """In one line, where Orbax prints both models."""
    with ocp.CheckpointManager(tmp_path) as checkpoints:
        checkpoints.save(1, args=ocp.args.StandardSave({"params": np.zeros(3)}))
    with pytest.raises(SystemExit):
        start(file, "--epochs=2")
    *_, line = capsys.readouterr().err.splitlines()
    assert f"error: {tmp_path} has checkpoints of another model: delete it" in line
    assert "--workdir" in line


@pytest.mark.slow
@each_file
def test_a_checkpoint_of_other_widths_is_refused(file, tmp_path):
    copy, command = tmp_path / file.name, [sys.executable, file.name, "--workdir=run"]
    results = []
    for widths in ("(32, 64, 128)", "(32, 64, 16)"):
        copy.write_text(file.read_text().replace("(32, 64, 128)", widths))
        results.append(
            subprocess.run(
                [*command, f"--epochs={len(results) + 1}"],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                timeout=600,
            )
        )
    assert [result.returncode for result in results] == [0, 2]
    assert "error: run has checkpoints of another model" in results[1].stderr


@each_file
def test_a_workdir_that_is_a_file_is_refused(file, monkeypatch, capsys, tmp_path):
    """Before the data are loaded."""
    (tmp_path / "file").touch()
    module = importlib.import_module(file.stem)
    monkeypatch.setattr(module, "load_data", None)
    for wrong in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(SystemExit) as exit:
            module.main([f"--workdir={wrong}"])
        assert exit.value.code == 2
        *_, line = capsys.readouterr().err.splitlines()
        assert f"error: --workdir={wrong} must be a directory" in line


@each_file
def test_arrays_of_another_shape_are_refused(file, monkeypatch, capsys, tmp_path):
    module = importlib.import_module(file.stem)
    images, labels = np.zeros((4, 9, 7)), np.zeros(4, int)
    for wrong in ((images, labels), (images[..., None], labels[:, None])):
        monkeypatch.setattr(module, "load_data", lambda wrong=wrong: (wrong, wrong))
        with pytest.raises(SystemExit):
            module.main([f"--workdir={tmp_path}"])
        assert f"{wrong[0].shape} and {wrong[1].shape}" in capsys.readouterr().err


@each_file
def test_stands_alone(file):
    imported = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            imported |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names <= PACKAGES


@pytest.mark.slow
@each_file
def test_runs_as_a_script_where_it_was_copied(file, compiled_for_speed, tmp_path):
    copy = shutil.copy(file, tmp_path)
    result = subprocess.run(
        [sys.executable, copy, "--epochs=3", f"--workdir={tmp_path / 'run'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    assert float(epochs(result.stdout)[-1][2]) > 0.85
    assert "100%" in result.stderr  # the bar


@pytest.mark.slow
def test_the_line_that_freezes(start, monkeypatch, tmp_path):
    (file,) = (file for file in FILES if file.stem == "train_nnx")
    line = "# transform = jaxnorm.nnx.freeze_batch_norms("
    source = file.read_text()
    assert line in source
    module = importlib.import_module(file.stem)
    before = module.main
    monkeypatch.setattr(module, "main", before)
    exec(compile(source.replace(line, line[2:]), file, "exec"), vars(module))
    start(file, "--epochs=1")
    with ocp.CheckpointManager(tmp_path) as checkpoints:
        model, _ = checkpoints.restore(1).values()
    for norm in model["norms"].values():
        np.testing.assert_array_equal(norm["count"]["value"], 0)
        np.testing.assert_array_equal(norm["scale"]["value"], 1)
