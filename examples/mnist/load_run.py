"""Reading of a run from its working directory, without disturbing the run."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import data
import jax
import ml_collections
from checkpoint import find_damage, load_variables
from model import create_model
from optimizer import create_optimizer
from step import TrainState
from train import create_state
from workdir import DESCRIPTION


class SavedRun:
    """A finished or unfinished run in a working directory.

    Args:
      workdir: working directory of the run.

    Attributes:
      workdir: working directory of the run.
      config: configuration of the run.
      model: model of the run, for one device.

    Raises:
      ValueError: there is no run in `workdir`.
    """

    def __init__(self, workdir: Path):
        path = workdir / DESCRIPTION
        if not path.is_file():
            raise ValueError(f"{workdir} holds no run: there is no {DESCRIPTION}")
        self.workdir = workdir
        described = json.loads(path.read_text())["config"]
        self.config = ml_collections.ConfigDict(described)
        self.model = create_model(self.config, axis_name=None)

    def splits(self) -> dict[str, data.Split]:
        """Returns the training and test data of the run, by name; loads them once.

        Raises:
          tfds_mnist.DataUnavailableError: the full data set is not available.
        """
        return dict(zip(("train", "test"), self._data, strict=True))

    def check_statistics(self) -> None:
        """Checks that the run's normalizer keeps running statistics.

        Raises:
          ValueError: it does not.
        """
        stats = jax.eval_shape(self._create_state).batch_stats
        names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(stats)}
        if names.isdisjoint(("mean", "var", "std")):
            raise ValueError(
                f"{self.workdir} holds a run with config.norm={self.config.norm}, "
                "which keeps no running statistics"
            )

    def states(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields the steps of complete checkpoints, ascending, and their variables.

        Yields nothing if statistics are not synchronized, because a checkpoint then has
        the statistics of each device.
        """
        if not self.config.sync:
            return
        like = jax.device_get(self._create_state())
        directory = self.workdir / "checkpoints"
        steps = [int(path.name) for path in directory.glob("*") if path.name.isdigit()]
        for step in sorted(steps):
            if find_damage(directory / str(step)) is None:
                state = load_variables(directory / str(step) / "state", like)
                yield step, {"params": state.params, "batch_stats": state.batch_stats}

    def final(self) -> dict[str, Any]:
        """Returns the variables at the end of the run.

        Raises:
          ValueError: the run is not finished.
        """
        path = self.workdir / "variables"
        if not path.is_dir():
            raise ValueError(
                f"{self.workdir} holds no final variables: continue the run first"
            )
        state = self._create_state()
        like = {"params": state.params, "batch_stats": state.batch_stats}
        return load_variables(path, jax.device_get(like))

    @functools.cached_property
    def _data(self) -> tuple[data.Split, data.Split]:
        return data.load(self.config)

    def _create_state(self) -> TrainState:
        optimizer = create_optimizer(self.config, num_steps=1)
        image = self._data[0].images[:1]
        return create_state(self.model, optimizer, self.config.seed, image)
