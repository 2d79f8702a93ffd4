"""Checkpoints: which are kept, and how damage is found."""

import checkpoint
import numpy as np
import pytest
from checkpoint import Checkpoints, find_damage, set_aside_damaged

STATE = {"w": np.arange(1000, dtype=np.float32), "step": np.array(0)}


def state(step):
    return {"w": STATE["w"] + step, "step": np.array(step)}


def save(directory, scores, keep=2):
    """Saves a checkpoint for each step of `scores`."""
    checkpoints = Checkpoints(directory, keep)
    for step, score in scores.items():
        checkpoints.save(step, state(step), {"note": step}, score)
    checkpoints.close()


def restore(directory):
    checkpoints = Checkpoints(directory, keep=2)
    restored = checkpoints.restore(STATE)
    checkpoints.close()
    return restored


def steps(directory):
    return sorted(int(path.name) for path in directory.iterdir())


def test_the_newest_is_restored(tmp_path):
    directory = tmp_path / "checkpoints"
    assert restore(directory) is None
    save(directory, {3: None, 6: 0.5})
    step, restored, position = restore(directory)
    assert step == 6 and position == {"note": 6}
    np.testing.assert_array_equal(restored["w"], state(6)["w"])
    assert restored["w"].dtype == np.float32


def test_the_newest_and_the_best_are_kept(tmp_path):
    save(tmp_path, {1: 0.7, 2: 0.9, 3: None, 4: 0.8, 5: None, 6: None})
    assert steps(tmp_path) == [2, 5, 6]
    save(tmp_path, {7: 0.95, 8: None, 9: None})  # in another process
    assert steps(tmp_path) == [7, 8, 9]


def test_a_checkpoint_may_be_replaced(tmp_path):
    save(tmp_path, {1: None, 2: None})
    save(tmp_path, {2: 0.5})
    assert restore(tmp_path)[0] == 2
    assert (tmp_path / "2" / "metrics").exists()


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_bit, truncate, lambda path: path.unlink()])
def test_damage_to_any_file_is_found(tmp_path, damage):
    save(tmp_path, {1: 0.5})
    files = [path for path in (tmp_path / "1").rglob("*") if path.is_file()]
    assert len(files) > 5
    for path in files:
        content = path.read_bytes()
        assert find_damage(tmp_path / "1") is None
        damage(path)
        assert find_damage(tmp_path / "1"), path
        path.write_bytes(content)


def test_the_one_before_a_damaged_one(tmp_path):
    directory, aside = tmp_path / "checkpoints", tmp_path / "damaged"
    save(directory, {1: None, 2: None, 3: None}, keep=3)
    flip_a_bit(next((directory / "3" / "state" / "d").iterdir()))
    (directory / "2" / checkpoint.CHECKSUMS).unlink()  # as if killed before it
    lines = list(set_aside_damaged(directory, aside))
    assert lines[0].startswith("checkpoint 2 was not completed")
    assert lines[1].startswith("checkpoint 3 is damaged: state/d/")
    assert sorted(path.name for path in aside.iterdir()) == ["2-1", "3-1"]
    assert restore(directory)[0] == 1
    assert list(set_aside_damaged(directory, aside)) == []


def test_what_a_killed_save_leaves_is_removed(tmp_path):
    save(tmp_path, {1: None})
    part = tmp_path / "2.orbax-checkpoint-tmp"
    (part / "state").mkdir(parents=True)
    assert restore(tmp_path)[0] == 1
    save(tmp_path, {3: None})  # which waits for the removal, as reading does not
    assert not part.exists()


def test_an_error_while_saving_reaches_the_next_call(tmp_path, monkeypatch):
    def full(path, text):
        raise OSError(28, "No space left on device")

    checkpoints = Checkpoints(tmp_path, keep=2)
    monkeypatch.setattr(checkpoint, "write_atomically", full)
    checkpoints.save(1, state(1), {}, None)
    with pytest.raises(checkpoint.WriteError, match=r"checkpoint 1 .*No space left"):
        checkpoints.save(2, state(2), {}, None)
    checkpoints.close()


def test_variables(tmp_path):
    checkpoint.save_variables(tmp_path / "variables", STATE)
    checkpoint.save_variables(tmp_path / "variables", state(3))  # in its place
    loaded = checkpoint.load_variables(tmp_path / "variables", like=STATE)
    np.testing.assert_array_equal(loaded["w"], state(3)["w"])
