"""Several processes, on one machine, are one run."""

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

PARALLELISMS = ["pmap", "jit", "shard_map"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_once")]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def steps(root, tmp_path_factory):
    """Returns what one_step.py computes as so many processes."""
    results = {}

    def steps(num_processes):
        if num_processes not in results:
            output = tmp_path_factory.mktemp("steps") / "results"
            command = [sys.executable, str(Path(__file__).with_name("one_step.py"))]
            command.append(str(output))
            search = os.pathsep.join(map(str, (root, root / "examples/mnist")))
            others = [[]]
            if num_processes > 1:
                address = f"127.0.0.1:{free_port()}"
                others = [
                    [address, str(num_processes), str(i)] for i in range(num_processes)
                ]
            children = [
                subprocess.Popen(
                    [*command, *other],
                    env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": search},
                )
                for other in others
            ]
            assert [child.wait(timeout=1200) for child in children] == [0] * len(others)
            results[num_processes] = pickle.loads(output.read_bytes())
        return results[num_processes]

    return steps


@pytest.mark.parametrize("parallelism", PARALLELISMS)
@pytest.mark.parametrize("batch", ["full", "half empty", "last"])
@pytest.mark.parametrize("num_processes", [2, 4])
def test_a_step_is_that_of_one_process(steps, num_processes, batch, parallelism):
    expected = steps(1)[parallelism][batch]
    actual = steps(num_processes)[parallelism][batch]

    def compare(x, y):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-5 * np.abs(y).max())

    jax.tree.map(compare, actual, expected)


SMALL = [
    "--cpu_devices=1",
    "--config.num_train=70",
    "--config.num_test=30",
    "--config.batch_size=16",
    "--config.checkpoint_every=2",
]


@pytest.fixture
def launch(root, tmp_path):
    """Starts main.py as two processes; in a group that can be ended as a whole."""
    groups = []

    def launch(*arguments):
        script = root / "examples" / "mnist" / "launch.py"
        process = subprocess.Popen(
            [sys.executable, str(script), "--processes=2", "--", *arguments],
            cwd=tmp_path,
            env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        groups.append(process.pid)
        return process

    yield launch
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def children_of(process):
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(child) for child in path.read_text().split()]


def wait_for_line(process, start):
    for line in process.stdout:
        if line.startswith(start):
            return
    pytest.fail(process.stderr.read())


def test_a_run_of_two_processes_that_is_terminated_and_goes_on(launch, tmp_path):
    arguments = [*SMALL, "--config.num_epochs=100000", f"--workdir={tmp_path / 'run'}"]
    run = launch(*arguments)
    wait_for_line(run, "epoch 1 ")
    # One process is told; the runtime agrees on a step with the other one.
    os.kill(children_of(run)[1], signal.SIGTERM)
    output, errors = run.communicate(timeout=1200)  # long before its last epoch
    assert run.returncode == 0, errors
    assert "terminated; the state is saved" in output
    saved = max(int(path.name) for path in (tmp_path / "run/checkpoints").iterdir())

    run = launch(*arguments)
    wait_for_line(run, f"continues from checkpoint {saved}")
    run.terminate()  # which the launcher passes on
    _, errors = run.communicate(timeout=1200)
    assert run.returncode == 0, errors


@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_others(launch, tmp_path, victim):
    run = launch(*SMALL, "--config.num_epochs=100000", f"--workdir={tmp_path / 'run'}")
    wait_for_line(run, "epoch 1 ")
    os.kill(children_of(run)[victim], signal.SIGKILL)
    start = time.monotonic()
    _, errors = run.communicate(timeout=100)
    assert time.monotonic() - start < 60
    assert run.returncode != 0
    assert "lost another process" in errors or "another task died" in errors, errors


def test_a_refusal_ends_all_processes(launch, tmp_path):
    workdir = tmp_path / "run"
    workdir.mkdir()
    (workdir / "metrics.jsonl").write_text("mine\n")
    run = launch(*SMALL, f"--workdir={workdir}")
    _, errors = run.communicate(timeout=1200)
    assert run.returncode != 0
    assert "holds results and no run.json" in errors
    assert "process 0 did not continue; it has printed the reason" in errors


def test_a_cluster_tells(start, tmp_path, monkeypatch):
    port = free_port()
    monkeypatch.setenv("JAX_COORDINATOR_PORT", str(port))
    for name, value in {
        "JOB_ID": "1",
        "STEP_NODELIST": "localhost",
        "NTASKS": "2",
        "LOCALID": "0",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    children = []
    for process in range(2):
        monkeypatch.setenv("SLURM_PROCID", str(process))
        children.append(start(*SMALL, "--config.num_epochs=1", f"--workdir={tmp_path}"))
    outputs = [child.communicate(timeout=1200) for child in children]
    assert [child.returncode for child in children] == [0, 0], outputs
    assert "of 2 processes" in outputs[0][0]
    assert "workdir: " not in outputs[1][0]  # one process is enough to tell
