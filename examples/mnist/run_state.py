"""The state of a run on disk: its checkpoints, its progress and its reports."""

import contextlib
import dataclasses
from pathlib import Path
from typing import Any, Self

import jax
import ml_collections
import numpy as np
import processes
import workdir as working_directory
from checkpoint import Checkpoints, WriteError, save_variables, set_aside_damaged
from report import Metrics, Report
from step import Sums, TrainState


@dataclasses.dataclass
class Progress:
    """The progress of a run.

    Attributes:
      state: parameters, optimizer, statistics, and the step, which is the position in
        the data and, with the seed, the state of all random numbers.
      epochs: number of finished epochs, including evaluation.
      sums: sums over the steps since then: loss, correct, count, bad. They are added in
        float64, step by step, so that a continued run ends with the same numbers. They
        are for reports, and correct only in the first process.
      bad_in_a_row: number of consecutive bad batches up to now.
    """

    state: TrainState
    epochs: int
    sums: np.ndarray
    bad_in_a_row: int


class RunState:
    """Manages the working directory of a run; a context manager.

    All processes must call its methods. Only the first process writes; the others need
    no access to the directory.

    Args:
      workdir: the directory.
      config: configuration of the run.
      state: state on the host, before the first step.

    Raises:
      settings.ConfigError: the directory is not for this run (see `workdir.claim`).
    """

    def __init__(
        self, workdir: Path, config: ml_collections.ConfigDict, state: TrainState
    ):
        self._workdir = workdir
        self._config = config
        self._start = state
        self._exit = contextlib.ExitStack()
        self._checkpoints: Checkpoints | None = None
        self._report: Report | None = None
        processes.on_first(self._claim)

    def _claim(self) -> tuple[()]:
        lock = working_directory.claim(self._workdir, self._config, self._start)
        self._exit.callback(lock.release)
        return ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self._exit.close()

    def resume(self) -> Progress:
        """Returns the progress of the last valid checkpoint, or of the start."""
        sums = np.zeros(len(Sums._fields))

        def restore():
            nonlocal sums
            state, epochs, bad_in_a_row = self._start, [], 0
            directory = self._workdir / "checkpoints"
            for line in set_aside_damaged(directory, self._workdir / "damaged"):
                print(line, flush=True)
            self._checkpoints = Checkpoints(directory, self._config.keep_checkpoints)
            self._exit.callback(self._checkpoints.close)
            restored = self._checkpoints.restore(state)
            if restored:
                step, state, position = restored
                epochs = [Metrics(**values) for values in position["epochs"]]
                sums = np.asarray(position["sums"], np.float64)
                bad_in_a_row = position["bad_in_a_row"]
                print(f"continues from checkpoint {step}", flush=True)
            self._report = self._exit.enter_context(Report(self._workdir, epochs))
            return state, np.int32(len(epochs)), np.int32(bad_in_a_row)

        zero = np.int32(0)
        state, epochs, bad_in_a_row = processes.on_first(
            restore, like=(self._start, zero, zero)
        )
        return Progress(jax.device_get(state), int(epochs), sums, int(bad_in_a_row))

    def add(self, metrics: Metrics) -> None:
        """Reports the metrics of an epoch."""
        if self._report:
            try:
                self._report.add(metrics)
            except OSError as error:
                raise WriteError(f"metrics could not be written: {error}") from error
            print(metrics, flush=True)

    def save(self, progress: Progress, test_accuracy: float | None) -> None:
        """Starts to write a checkpoint.

        Args:
          progress: progress, with the state on the host.
          test_accuracy: test accuracy of this state, if known; the checkpoint with the
            best one is kept.

        Raises:
          checkpoint.WriteError: this or the previous checkpoint cannot be written.
        """
        if self._checkpoints and self._report:
            position = {
                "epochs": [metrics._asdict() for metrics in self._report.epochs],
                "sums": progress.sums.tolist(),
                "bad_in_a_row": progress.bad_in_a_row,
            }
            step = int(progress.state.step)
            self._checkpoints.save(step, progress.state, position, test_accuracy)

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk."""
        if self._checkpoints:
            self._checkpoints.wait()

    def finish(self, variables: Any) -> None:
        """Draws the curves, and writes the final variables."""
        if self._report:
            self._report.draw_curves()
            save_variables(self._workdir / "variables", variables)
