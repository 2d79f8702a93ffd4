"""Checkpoints of training states with Orbax, and checksums of their files.

A checkpoint is valid only when its checksums are written, after Orbax has completed it.
So the next start detects a checkpoint that a killed process left incomplete, or that
the disk has changed, and uses the previous one.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
import signals
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    BestN,
    LatestN,
)

CHECKSUMS = "checksums.json"
# One process writes, and does not wait for any other.
_ALONE = ocp.options.MultiprocessingOptions(
    active_processes={0}, barrier_sync_key_prefix="first"
)


class WriteError(RuntimeError):
    """A file could not be written; the message is one line for the user."""


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Returns False, because training checks for preemption at every step."""
        return False


class Checkpoints:
    """Writes and reads the checkpoints of a run, in one process.

    Saving runs in the background; the next call raises its error.

    Args:
      directory: contains all checkpoints, each in a directory named after its step.
      keep: how many of the newest checkpoints to keep; at least 2, because one may be
        damaged. The checkpoint with the best score is kept, too.
    """

    @signals.deferred()
    def __init__(self, directory: Path, keep: int):
        self._directory = directory.absolute()
        self._directory.mkdir(exist_ok=True)
        latest = LatestN(n=keep)
        best = BestN(get_metric_fn=_score, n=1, keep_checkpoints_without_metrics=False)
        self._manager = _Manager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                create=False,
                best_fn=_score,
                preservation_policy=AnyPreservationPolicy([latest, best]),
                cleanup_tmp_directories=True,
                multiprocessing_options=_ALONE,
            ),
        )
        self._sealer = ThreadPoolExecutor(max_workers=1)
        self._sealing: Future[None] | None = None
        self._failed = False

    @signals.deferred()
    def save(
        self, step: int, state: Any, position: dict[str, Any], score: float | None
    ) -> None:
        """Starts to save a checkpoint; replaces an older one of the same step.

        Args:
          step: training step.
          state: a tree of arrays on the host.
          position: other values to store, as JSON.
          score: larger is better; None if unknown.

        Raises:
          WriteError: this or the previous checkpoint cannot be written.
        """
        self.wait()
        try:
            if step in self._manager.all_steps():
                self._manager.delete(step)
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    position=ocp.args.JsonSave(position),
                ),
                metrics=None if score is None else {"score": score},
                force=True,
            )
        except OSError as error:
            raise WriteError(
                f"checkpoint {step} could not be saved: {error}"
            ) from error
        self._sealing = self._sealer.submit(self._seal, step)

    def wait(self) -> None:
        """Waits until the last checkpoint is complete.

        Raises:
          WriteError: it cannot be written.
        """
        sealing, self._sealing = self._sealing, None
        if sealing is not None:
            sealing.result()

    @signals.deferred()
    def restore(self, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns step, state and position of the newest checkpoint, or None.

        Args:
          like: a tree of arrays with the structure, shapes and dtypes of the state.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(like),
                position=ocp.args.JsonRestore(),
            ),
        )
        return step, restored.state, restored.position

    @signals.deferred()
    def close(self) -> None:
        """Waits for the last checkpoint, and closes the directory."""
        try:
            self.wait()
        finally:
            self._sealer.shutdown()
            try:
                self._manager.close()
            except Exception:
                # It raises the error of `wait` again.
                if not self._failed:
                    raise

    def _seal(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            self._manager.check_for_errors()
            directory = self._directory / str(step)
            write_atomically(directory / CHECKSUMS, json.dumps(_checksums(directory)))
        except Exception as error:
            self._failed = True
            raise WriteError(
                f"checkpoint {step} could not be saved: {error}"
            ) from error


def set_aside_damaged(directory: Path, aside: Path) -> Iterator[str]:
    """Moves damaged checkpoints to another directory.

    Args:
      directory: contains all checkpoints; no manager may have it open.
      aside: directory for the damaged checkpoints.

    Yields:
      A line about each damaged checkpoint.
    """
    for path in sorted(directory.glob("*")):
        if not (path.name.isdigit() and path.is_dir()):
            continue
        damage = find_damage(path)
        if damage:
            aside.mkdir(exist_ok=True)
            number = 1 + sum(1 for _ in aside.glob(f"{path.name}-*"))
            target = aside / f"{path.name}-{number}"
            path.rename(target)
            yield f"checkpoint {path.name} {damage}; moved to {target}"


def find_damage(checkpoint: Path) -> str | None:
    """Returns a description of the damage to a checkpoint, or None if it is valid."""
    try:
        expected = json.loads((checkpoint / CHECKSUMS).read_bytes())
    except FileNotFoundError:
        return "was not completed"
    except ValueError:
        return f"has no valid {CHECKSUMS}"
    actual = _checksums(checkpoint)
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            return f"is damaged: {name} is not as it was written"
    return None


@signals.deferred()
def save_variables(path: Path, variables: Any) -> None:
    """Writes a tree of arrays into the directory `path`, and replaces its contents."""
    with ocp.StandardCheckpointer(multiprocessing_options=_ALONE) as checkpointer:
        checkpointer.save(path.absolute(), variables, force=True)


def load_variables(path: Path, like: Any) -> Any:
    """Reads the variables that `save_variables` wrote.

    Args:
      path: the directory.
      like: a tree of arrays with the shapes, dtypes and shardings of the result, such
        as `model.init(...)`; its values do not matter.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute(), like)


def write_atomically(path: Path, text: str) -> None:
    """Writes a file so that an interruption leaves the old contents or the new ones."""
    part = path.with_name(path.name + ".part")
    with part.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def _checksums(checkpoint: Path) -> dict[str, str]:
    sums = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != CHECKSUMS:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
            sums[str(path.relative_to(checkpoint))] = digest.hexdigest()
    return sums


def _score(metrics: dict[str, float]) -> float:
    return metrics["score"]
