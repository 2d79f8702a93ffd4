"""Whatever ends a run, the same command continues with it, and nothing is lost."""

import contextlib
import json
import random
import re
import resource
import signal
import subprocess
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("compiled_once", "compiled_for_speed"),
]

RUN = [
    "--cpu_devices=2",
    "--config.num_train=600",
    "--config.num_test=100",
    "--config.batch_size=32",
    "--config.num_epochs=5",
    "--config.checkpoint_every=5",
    "--config.max_shift=1",
    "--config.dropout_rate=0.1",
]
ENDLESS = [*RUN, "--config.num_epochs=100000"]


def results(workdir):
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore((workdir / "variables").absolute())
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return variables, [{**line, "images_per_second": 0} for line in lines]


def finish(process):
    output, errors = process.communicate(timeout=1200)
    assert process.returncode == 0, errors
    return output


def wait_for_line(process, start):
    for line in process.stdout:
        if line.startswith(start):
            return
    pytest.fail(process.stderr.read())


@pytest.mark.parametrize(("kills", "num_train"), [(3, 600), (20, 2000)])
def test_killed_at_any_moment(start, tmp_path, kills, num_train):
    arguments = [*RUN, f"--config.num_train={num_train}"]
    begin = time.monotonic()
    finish(start(*arguments, f"--workdir={tmp_path / 'whole'}"))
    duration = time.monotonic() - begin
    arguments.append(f"--workdir={tmp_path / 'parts'}")
    moments = random.Random(kills)
    for _ in range(kills):
        process = start(*arguments)
        wait_for_line(process, "workdir: ")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=moments.uniform(0, duration / 2))
        process.kill()
        process.communicate()
    finish(start(*arguments))
    variables, lines = results(tmp_path / "parts")
    expected_variables, expected_lines = results(tmp_path / "whole")
    assert lines == expected_lines
    jax.tree.map(np.testing.assert_array_equal, variables, expected_variables)


def test_terminated(start, tmp_path):
    process = start(*ENDLESS, "--config.checkpoint_every=1000", f"--workdir={tmp_path}")
    wait_for_line(process, "epoch 1 ")
    time.sleep(1)  # within the second epoch, or the evaluation after it
    process.terminate()
    output = finish(process)  # long before its last epoch
    assert "terminated; the state is saved" in output
    newest = max(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    process = start(*ENDLESS, f"--workdir={tmp_path}")
    wait_for_line(process, f"continues from checkpoint {newest}")
    process.kill()
    process.communicate()


def test_a_full_disk(start, tmp_path):
    arguments = [*RUN, f"--workdir={tmp_path}"]
    process = start(*ENDLESS, f"--workdir={tmp_path}")
    wait_for_line(process, "epoch 1 ")
    # No file can grow beyond that, which is how a full disk looks to the process.
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    _, errors = process.communicate(timeout=1200)
    assert process.returncode == 1
    # Among what Orbax's threads have to say, before and after.
    assert re.search(r"^main\.py: error: checkpoint \d+ could", errors, re.MULTILINE)
    output = finish(start(*arguments))
    assert "continues from checkpoint" in output


def test_two_runs_in_one_directory(start, tmp_path):
    first = start(*ENDLESS, f"--workdir={tmp_path}")
    wait_for_line(first, "epoch 1 ")
    second = start(*RUN, f"--workdir={tmp_path}")
    _, errors = second.communicate(timeout=1200)
    assert second.returncode == 2
    assert "in use by another run" in errors
    assert first.poll() is None
    first.send_signal(signal.SIGINT)
    output, _ = first.communicate(timeout=1200)
    assert first.returncode == 130
    assert "interrupted; the same command continues" in output
