"""Several processes as one run: start of JAX's distributed runtime, and exchanges."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# After so many seconds without a heartbeat, a process counts as dead, and the runtime
# ends the others. JAX's default is 100.
HEARTBEAT_SECONDS = 20


class ProcessesError(ValueError):
    """The processes cannot connect; the message is one line for the user."""


class RefusedError(RuntimeError):
    """The first process refused to continue, and has printed the reason."""


def start(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes of this run, if there are any.

    Call it before any device is used. JAX detects missing arguments on the clusters
    that it knows: SLURM, Kubernetes, Cloud TPU, Open MPI. With num_processes=1 it does
    not look for a cluster.

    Args:
      coordinator_address: `host:port` of process 0.
      num_processes: number of processes.
      process_id: index of this process, from 0.

    Raises:
      ProcessesError: some arguments are given, and the rest cannot be detected.
    """
    given = {
        "coordinator_address": coordinator_address,
        "num_processes": num_processes,
        "process_id": process_id,
    }
    if num_processes == 1:
        return
    try:
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=HEARTBEAT_SECONDS)
    except ValueError as error:
        if set(given.values()) != {None}:
            raise ProcessesError(
                "--coordinator_address, --num_processes and --process_id must be given "
                f"together, except on a detected cluster: {error}"
            ) from error
        # Without arguments and cluster, there is only this process.
    except RuntimeError as error:
        raise ProcessesError(
            "the other processes, or the cluster, do not answer; to run a single "
            f"process, pass --num_processes=1: {error}"
        ) from error


def is_first() -> bool:
    """Returns whether this is the process that prints and writes."""
    return jax.process_index() == 0


def on_first(action: Callable[[], Any], like: Any = ()) -> Any:
    """Calls `action` in the first process, and returns its result in all processes.

    Args:
      action: returns a tree of arrays.
      like: a tree of the same structure, shapes and dtypes.

    Raises:
      RefusedError: in the other processes, if the first raised an error.
    """
    if jax.process_count() == 1:
        return action()
    result, error = like, None
    if is_first():
        try:
            result = action()
        except Exception as raised:
            error = raised
    failed = multihost_utils.broadcast_one_to_all(np.bool_(error is not None))
    if error is not None:
        raise error
    if failed:
        raise RefusedError("process 0 did not continue; it has printed the reason")
    return multihost_utils.broadcast_one_to_all(result)


def gather(rows: np.ndarray) -> np.ndarray:
    """Returns the rows of all processes, in the order of processes."""
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))
