"""A working directory belongs to one run, and to one configuration."""

import json

import numpy as np
import pytest
import workdir
from settings import ConfigError

STATE = {"kernel": np.zeros((3, 2), np.float32)}


def claim(path, config, state=STATE):
    workdir.claim(path, config, state).release()


def test_it_is_made_and_may_be_used_again(tmp_path, get_config):
    path = tmp_path / "new" / "directory"
    claim(path, get_config())
    claim(path, get_config())
    assert json.loads((path / "run.json").read_text())["config"]["batch_size"] == 128


CHANGES = {
    "num_epochs": 7,
    "checkpoint_every": 7,
    "keep_checkpoints": 7,
    "skip_nonfinite": False,
    "max_bad_batches": 7,
    "data_dir": "elsewhere",
    "parallelism": "jit",
}


@pytest.mark.parametrize("option", workdir.MAY_DIFFER)
def test_options_that_may_change_when_a_run_goes_on(tmp_path, get_config, option):
    claim(tmp_path, get_config())
    claim(tmp_path, get_config(**{option: CHANGES[option]}))


def test_the_error_names_options_that_may_not_change(tmp_path, get_config):
    claim(tmp_path, get_config())
    changed = get_config(seed=3, norm="group", num_epochs=9)
    message = "norm was batch, and is group; its config seed was 0, and is 3;"
    with pytest.raises(ConfigError, match=message):
        claim(tmp_path, changed, {})
    claim(tmp_path, get_config())  # the attempt changed nothing


def test_another_model(tmp_path, get_config):
    claim(tmp_path, get_config())
    wider = {"kernel": np.zeros((3, 4), np.float32)}
    message = r"state kernel was float32\[3, 2\], and is float32\[3, 4\]"
    with pytest.raises(ConfigError, match=message):
        claim(tmp_path, get_config(), wider)


def test_the_second_of_two_runs_is_refused(tmp_path, get_config):
    lock = workdir.claim(tmp_path, get_config(), STATE)
    with pytest.raises(ConfigError, match="in use by another run"):
        claim(tmp_path, get_config())
    lock.release()
    claim(tmp_path, get_config())


def test_results_of_something_else_stay(tmp_path, get_config):
    (tmp_path / "metrics.jsonl").write_text("mine\n")
    with pytest.raises(ConfigError, match=r"holds results without the run\.json"):
        claim(tmp_path, get_config())
    assert (tmp_path / "metrics.jsonl").read_text() == "mine\n"


def test_a_file(tmp_path, get_config):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ConfigError, match="not a directory"):
        claim(path, get_config())


def test_one_that_cannot_be_made(tmp_path, get_config):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"below cannot be created.*name another"):
        claim(tmp_path / "file" / "below", get_config())


@pytest.mark.parametrize("name", workdir.FOLDERS)
def test_a_file_by_the_name_of_a_folder(tmp_path, get_config, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"holds a {name} that is not a directory"):
        claim(tmp_path, get_config())
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", workdir.FILES)
def test_a_folder_by_the_name_of_a_file(tmp_path, get_config, name):
    (tmp_path / name).mkdir()
    with pytest.raises(ConfigError, match=f"holds a {name} that is not a file"):
        claim(tmp_path, get_config())


def test_a_link_to_nothing(tmp_path, get_config):
    (tmp_path / "checkpoints").symlink_to(tmp_path / "missing")
    with pytest.raises(ConfigError, match="checkpoints that is not a directory"):
        claim(tmp_path, get_config())


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 1, "state": 2}'])
def test_a_description_of_something_else(tmp_path, get_config, text):
    (tmp_path / workdir.DESCRIPTION).write_text(text)
    with pytest.raises(ConfigError, match=r"run\.json that does not describe a run"):
        claim(tmp_path, get_config())
    assert (tmp_path / workdir.DESCRIPTION).read_text() == text


def test_a_description_that_cannot_be_written(tmp_path, get_config):
    (tmp_path / f"{workdir.DESCRIPTION}.part").mkdir()
    with pytest.raises(ConfigError, match=r"cannot be written to: .*name another"):
        claim(tmp_path, get_config())
