"""The example as a user runs it, in a process of its own."""

import json
import re
import shutil
import signal
import subprocess
import sys
from functools import partial

import checkpoint
import chex
import diagnose
import jax
import numpy as np
import pytest
import recalibrate
from model import create_model
from norms import NORMS
from support.tiers import in_full

pytestmark = pytest.mark.usefixtures("compiled_once")

KEYS = [
    "epoch",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
    "images_per_second",
    "stats_spread",
    "bad_batches",
]
SMALL = [
    "--cpu_devices=2",
    "--config.num_train=70",
    "--config.num_test=30",
    "--config.batch_size=32",
]
SMALLER = [
    "--cpu_devices=2",
    "--config.num_train=35",
    "--config.num_test=15",
    "--config.batch_size=16",
]


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_and_what_it_leaves(start, tmp_path, get_config):
    workdir = tmp_path / "results"
    process = start(*SMALLER, "--config.num_epochs=2", f"--workdir={workdir}")
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors

    assert f"workdir: {workdir}" in output
    assert "devices: 2 x cpu" in output
    assert "embedded, 35 training and 15 test images" in output
    assert "parallelism: shard_map, batch 16 over 2 devices" in output
    assert "epoch 2: " in errors  # the progress bar
    assert len(re.findall(r"^epoch \d .*images/s.*stats_spread 0$", output, re.M)) == 2

    epochs = read_lines(workdir / "metrics.jsonl")
    assert [list(epoch) for epoch in epochs] == [KEYS, KEYS]
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert all(epoch["stats_spread"] == 0 for epoch in epochs)
    assert epochs[1]["train_loss"] < epochs[0]["train_loss"]
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any(path.name.startswith("events.out") for path in workdir.iterdir())

    model = create_model(get_config(), axis_name=None)
    images = np.zeros((1, 28, 28, 1), np.uint8)
    init = partial(model.init, train=False)
    fresh = jax.eval_shape(init, jax.random.key(1), images)
    like = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), fresh)
    variables = checkpoint.load_variables(workdir / "variables", like=like)
    chex.assert_trees_all_equal_shapes_and_dtypes(variables, fresh)
    chex.assert_tree_all_finite(variables)
    assert variables["batch_stats"]["BatchNorm_0"]["count"] == 6


# In the default tier, tests/tools has tests of what both call.
@pytest.mark.slow
def test_a_run_is_diagnosed_and_recalibrated(start, tmp_path, capsys):
    _, errors = start(
        *SMALL, "--config.num_epochs=1", f"--workdir={tmp_path}"
    ).communicate(timeout=1200)
    found = diagnose.diagnose(tmp_path, "train", num_images=64)
    assert "BatchNorm_2" in capsys.readouterr().out, errors
    assert any("raining and " in sentence for sentence in found)
    assert (tmp_path / "diagnosis.png").read_bytes().startswith(b"\x89PNG")

    found = recalibrate.accuracies(tmp_path, num_images=70)
    assert list(found) == ["as they are", "pixels * 3 + 1"]
    assert all(0 <= x <= 1 for pair in found.values() for x in pair)


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"holds no run: there is no run\.json"):
        diagnose.diagnose(tmp_path, "test", num_images=64)


@pytest.mark.slow
def test_devices_drift_apart_without_sync(start, tmp_path):
    process = start(
        *SMALL,
        "--config.num_epochs=1",
        "--config.sync=False",
        "--config.parallelism=shard_map",
        f"--workdir={tmp_path}",
    )
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    assert "statistics separate on each device" in output
    assert read_lines(tmp_path / "metrics.jsonl")[0]["stats_spread"] > 1e-3


@pytest.mark.slow
@pytest.mark.tfds
@pytest.mark.usefixtures("compiled_for_speed")
def test_brief_training_on_the_full_data_set(start, tmp_path, root, mnist_dir):
    process = start(
        f"--config={root / 'configs' / 'mnist.py'}",
        f"--config.data_dir={mnist_dir}",
        "--config.num_train=1800",
        "--config.num_test=500",
        "--config.batch_size=64",
        "--config.num_epochs=1",
        f"--workdir={tmp_path}",
    )
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    assert "mnist, 1,800 training and 500 test images" in output
    assert read_lines(tmp_path / "metrics.jsonl")[0]["test_accuracy"] > 0.85


# In the default tier, test_mnist_signals.py tests the handlers.
@pytest.mark.slow
def test_an_interrupted_run_keeps_its_finished_epochs(start, tmp_path):
    process = start(*SMALL, "--config.num_epochs=100000", f"--workdir={tmp_path}")
    for line in process.stdout:
        if line.startswith("epoch 1 "):
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 130, errors
    assert f"the same command continues from {tmp_path}" in output
    assert "Traceback" not in errors
    epochs = read_lines(tmp_path / "metrics.jsonl")
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, len(epochs) + 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        # One that the flags find, and one that is found before the first step. Each is
        # a process, which imports all: in the default tier, test_mnist_settings.py has
        # what is refused, and test_compiled.py a process that refuses.
        in_full((["--nrom=group"], "did you mean --config.norm?")),
        in_full(
            (["--config.norm=ghost", "--config.batch_size=48"], "virtual_batch_size")
        ),
        *(
            pytest.param(arguments, message, marks=pytest.mark.slow)
            for arguments, message in [
                (["--config.batch_size=many"], "batch_size"),
                (["--config.learning_rat=1"], "did you mean learning_rate?"),
                (["--config=missing.py"], "missing.py"),
                ([f"--config={signal.__file__}"], "a file with a get_config()"),
                (["--num_processes=2"], "--process_id must be given"),
                (["--config.dataset=mnist", "--config.data_dir=none"], "no MNIST in"),
            ]
        ),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(start, arguments, message):
    process = start(*arguments)
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 2
    assert output == ""
    assert errors.startswith("main.py: error: ")
    assert len(errors.splitlines()) == 1
    assert message in errors


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--config.norm=group"]])
def test_a_copy_asks_for_a_configuration(root, tmp_path, arguments):
    for path in (root / "examples" / "mnist").glob("*.py"):
        shutil.copy(path, tmp_path)
    command = [sys.executable, str(tmp_path / "main.py"), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 2
    assert result.stderr.endswith("name another file: --config=FILE\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.slow
def test_help_tells_of_every_norm(start):
    output, _ = start("--help").communicate(timeout=1200)
    words = " ".join(output.split())
    for name, norm in NORMS.items():
        assert f"{name}: {norm.text}" in words
