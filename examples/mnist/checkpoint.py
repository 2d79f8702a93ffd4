"""Training states on disk, with Orbax, and checksums of their files.

A checkpoint counts once its checksums are written, after Orbax has made it whole: what
a killed process left half done, or a disk has changed since, is found at the next
start, and the one before is taken.
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
# One process writes, and waits for no other one.
_ALONE = ocp.options.MultiprocessingOptions(
    active_processes={0}, barrier_sync_key_prefix="first"
)


class WriteError(RuntimeError):
    """Something could not be written; the message is one line for the user."""


class _Manager(ocp.CheckpointManager):
    def reached_preemption(self, step: int) -> bool:
        """Returns False: training asks, at every step, and none must be asked twice."""
        return False


class Checkpoints:
    """The checkpoints of a run, for one process to write and read.

    Saving goes on while training does; an error of it is raised by the next call.

    Args:
      directory: of all checkpoints, each in a directory named after its step.
      keep: how many of the newest to keep, at least 2, since one may be damaged. The
        one with the best score is kept, too.
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
        """Begins to save; an older checkpoint of the same step is replaced.

        Args:
          step: of training.
          state: a tree of arrays on the host.
          position: what else there is to know, as JSON.
          score: the larger, the better; None if it is not known.

        Raises:
          WriteError: this or the last checkpoint cannot be written.
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
        """Waits until the last checkpoint is whole.

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
        """Waits, and lets go of the directory."""
        try:
            self.wait()
        finally:
            self._sealer.shutdown()
            try:
                self._manager.close()
            except Exception:
                # It raises once more what `wait` has raised.
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
    """Moves checkpoints that are not as they were written out of the way.

    Args:
      directory: of all checkpoints, which no manager holds open.
      aside: where they go.

    Yields:
      A line about each.
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
            yield f"checkpoint {path.name} {damage}; it is in {target} now"


def find_damage(checkpoint: Path) -> str | None:
    """Returns what is wrong with the files of a checkpoint, None if nothing is."""
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
    """Writes a tree of arrays into the directory `path`, in place of what it held."""
    with ocp.StandardCheckpointer(multiprocessing_options=_ALONE) as checkpointer:
        checkpointer.save(path.absolute(), variables, force=True)


def load_variables(path: Path, like: Any) -> Any:
    """Reads what `save_variables` wrote.

    Args:
      path: the directory.
      like: a tree of arrays with the shapes, dtypes and shardings to read into, such as
        `model.init(...)`; it need not be the one that was saved.
    """
    with ocp.StandardCheckpointer() as checkpointer:
        return checkpointer.restore(path.absolute(), like)


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is either there and whole, or as it was."""
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
