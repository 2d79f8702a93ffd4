"""A run that was ended goes on as if nothing had happened."""

import itertools
import json
from pathlib import Path

import checkpoint
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import signals
import train

SMALL = {
    "num_train": 70,
    "num_test": 30,
    "batch_size": 16,  # 5 steps an epoch, the last one padded
    "num_epochs": 2,
    "checkpoint_every": 2,
    "max_shift": 1,
    "dropout_rate": 0.2,
}


pytestmark = pytest.mark.usefixtures("compiled_once", "standard_promotion", "narrow")


@pytest.fixture
def go(get_config, tmp_path, monkeypatch):
    """Runs in a directory; `stop` is the step before which it is told to end."""

    def go(name, stop=None, num_devices=4, **changes):
        workdir = tmp_path / name
        saved = (workdir / "checkpoints").glob("*")
        steps = itertools.count(max((int(path.name) for path in saved), default=0))

        def check():  # before each step
            if next(steps) == stop:
                raise signals.Terminated

        monkeypatch.setattr(signals, "check_together", check)
        try:
            train.train_and_evaluate(
                get_config(**SMALL | changes),
                workdir,
                jax.devices("cpu")[:num_devices],
            )
        except signals.Terminated:
            assert stop is not None
        else:
            assert stop is None
        return workdir

    return go


def lines(workdir: Path):
    values = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{**line, "images_per_second": None} for line in values]


def variables(workdir: Path):
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore((workdir / "variables").absolute())


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", ["pmap", "jit", "shard_map"])
def test_a_resumed_run_equals_an_unbroken_one(go, capsys, parallelism):
    whole = go("whole", parallelism=parallelism)
    for stop in (3, 5):  # within an epoch, not at an interval; between two epochs
        go("parts", stop, parallelism=parallelism)
    parts = go("parts", parallelism=parallelism)
    assert "continues from checkpoint 5" in capsys.readouterr().out
    assert lines(parts) == lines(whole)
    assert [line["epoch"] for line in lines(parts)] == [1, 2]
    assert_equal(variables(parts), variables(whole))


@pytest.mark.slow
def test_a_run_resumed_on_other_devices_is_close(go):
    whole = go("whole")
    go("parts", 4, parallelism="shard_map", num_devices=2)
    parts = go("parts", parallelism="jit", num_devices=1)

    def compare(x, y):
        # Adam makes much of rounding where a gradient is small.
        np.testing.assert_allclose(
            np.linalg.norm(x - y) / np.linalg.norm(y), 0, atol=0.01
        )

    jax.tree.map(compare, variables(parts), variables(whole))


@pytest.mark.slow
def test_devices_with_statistics_of_their_own(go):
    options = {"parallelism": "shard_map", "sync": False}
    whole = go("whole", **options)
    go("parts", 3, **options)
    parts = go("parts", **options)
    assert lines(parts)[0]["stats_spread"] > 0
    assert lines(parts) == lines(whole)
    assert_equal(variables(parts), variables(whole))
    with pytest.raises(ValueError, match=r"its state .* was float32\[4, 4\]"):
        go("parts", num_devices=2, **options)


@pytest.mark.slow
def test_an_end_within_evaluation(go, monkeypatch):
    whole = go("whole")

    def terminated():
        raise signals.Terminated

    with monkeypatch.context() as patch:
        patch.setattr(signals, "check", terminated)
        go("parts", stop=np.inf)
    parts = go("parts")
    assert lines(parts) == lines(whole)
    assert_equal(variables(parts), variables(whole))


@pytest.mark.slow
def test_a_damaged_checkpoint(go, capsys):
    whole = go("whole")
    parts = go("parts", 9)
    for path in (parts / "checkpoints" / "9" / "state" / "d").iterdir():
        path.write_bytes(b"nothing")
    parts = go("parts")
    output = capsys.readouterr().out
    assert "checkpoint 9 is damaged" in output and "from checkpoint 8" in output
    assert lines(parts) == lines(whole)
    assert_equal(variables(parts), variables(whole))


@pytest.mark.slow
def test_metrics_that_are_ahead_of_the_checkpoint(go):
    # As after a kill between the line of an epoch and its checkpoint.
    parts = go("parts", 4)
    (parts / "metrics.jsonl").write_text('{"epoch": 1}\n{"epoch": 2}\n{"ep')
    go("parts", 6)
    assert [line["epoch"] for line in lines(parts)] == [1]


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_do_and_may_be_longer(go):
    workdir = go("run")
    before = lines(workdir), variables(workdir)
    checkpoint.save_variables(
        workdir / "variables", {"none": np.zeros(1)}
    )  # as if killed before it
    go("run")
    assert lines(workdir) == before[0]
    assert_equal(variables(workdir), before[1])
    go("run", num_epochs=3)
    assert [line["epoch"] for line in lines(workdir)] == [1, 2, 3]
    assert lines(workdir)[:2] == before[0]
