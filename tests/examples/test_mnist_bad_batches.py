"""Batches that are not finite change nothing, and too many of them end a run."""

import json
from functools import partial

import data
import jax
import numpy as np
import pytest
import train
from run import BadBatchesError
from support.tiers import matrix

OPTIONS = {"num_train": 64, "num_test": 16, "batch_size": 16, "num_epochs": 1}


pytestmark = pytest.mark.usefixtures("compiled_once", "standard_promotion", "narrow")


@pytest.fixture
def poison(monkeypatch, get_config):
    """Makes some training images bad; those of the given batches, by the order."""

    def poison(batches, value=np.nan):
        split, test = data.load(get_config(**OPTIONS))
        images = split.images.astype(np.float32)
        order = data.training_order(64, 16, seed=0)
        for batch in batches:
            images[order[batch][0], 3, 4] = value  # one pixel of one image
        monkeypatch.setattr(
            data, "load", lambda config: (split._replace(images=images), test)
        )

    return poison


def metrics(workdir):
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("value", matrix([np.nan, np.inf], often=[np.inf]))
@pytest.mark.parametrize(
    "parallelism", matrix(("shard_map", "pmap", "jit"), often=["shard_map"])
)
def test_a_bad_step_changes_nothing_but_the_step(build, digits, parallelism, value):
    parallel, state = build(parallelism, learning_rate=0.1)

    def take(rows, bad):
        batch = data.take(digits, np.arange(16), rows)
        images = batch.images.astype(np.float32)
        images[batch.rows == 5] = value if bad else images[batch.rows == 5]
        return batch._replace(images=images)

    placed = parallel.place_state(state)
    placed, sums = parallel.train_step(
        placed, parallel.place_batch(partial(take, bad=True), 16)
    )
    assert parallel.fetch(sums) == (0, 0, 0, 1)
    after = parallel.fetch(placed)
    assert after.step == 1
    jax.tree.map(
        np.testing.assert_array_equal, after.replace(step=0), state.replace(step=0)
    )
    for device in range(4):
        jax.tree.map(
            lambda x, y, device=device: np.testing.assert_array_equal(x[device], y),
            parallel.fetch_statistics(placed),
            state.batch_stats,
        )
    placed, sums = parallel.train_step(
        placed, parallel.place_batch(partial(take, bad=False), 16)
    )
    sums = parallel.fetch(sums)
    assert sums.count == 16 and sums.bad == 0 and np.isfinite(sums.loss)


def test_bad_batches_are_counted_and_reported(poison, get_config, tmp_path, capsys):
    poison([1, 2])
    train.train_and_evaluate(get_config(**OPTIONS), tmp_path, jax.devices()[:2])
    (line,) = metrics(tmp_path)
    assert line["bad_batches"] == 2
    assert np.isfinite(line["train_loss"]) and np.isfinite(line["test_loss"])
    assert "bad batches 2" in capsys.readouterr().out


@pytest.mark.full
def test_too_many_in_a_row_end_the_run(poison, get_config, tmp_path):
    config = get_config(**OPTIONS, max_bad_batches=2, checkpoint_every=1)
    poison([0, 2, 3])
    with pytest.raises(BadBatchesError, match=r"2 batches in a row .* step 4"):
        train.train_and_evaluate(config, tmp_path, jax.devices()[:2])
    assert (tmp_path / "checkpoints" / "3").exists()


@pytest.mark.slow
def test_without_the_guard_no_bad_state_is_saved(poison, get_config, tmp_path):
    config = get_config(
        **OPTIONS, max_bad_batches=2, checkpoint_every=1, skip_nonfinite=False
    )
    poison([1])  # the parameters are bad from then on
    with pytest.raises(BadBatchesError, match=r"checkpoint is that of step 1$"):
        train.train_and_evaluate(config, tmp_path, jax.devices()[:2])
    saved = [int(path.name) for path in (tmp_path / "checkpoints").iterdir()]
    assert max(saved) == 1
