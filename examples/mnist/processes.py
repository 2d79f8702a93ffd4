"""One run as several processes: JAX's distributed runtime, and what they share."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

# A process that gives no sign of life for so long is taken for dead, and the runtime
# ends the others. JAX's default is 100.
HEARTBEAT_SECONDS = 20


class ProcessesError(ValueError):
    """The processes do not find each other; the message is one line for the user."""


class RefusedError(RuntimeError):
    """The first process refused to go on, and has said why."""


def start(
    coordinator_address: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes of this run, if there are any.

    To be called before anything touches a device. What is not given is asked of the
    cluster, if this is one that JAX knows: SLURM, Kubernetes, Cloud TPU, Open MPI. One
    process is alone, and asks nobody.

    Args:
      coordinator_address: `host:port`, at which process 0 is found.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    Raises:
      ProcessesError: something is given, and the rest cannot be found out.
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
                "--coordinator_address, --num_processes and --process_id go together, "
                f"unless a cluster tells the others: {error}"
            ) from error
        # Nothing is given, and there is no cluster: this process is alone.
    except RuntimeError as error:
        raise ProcessesError(
            "the other processes, or the cluster, do not answer; --num_processes=1 is "
            f"for a process without others: {error}"
        ) from error


def is_first() -> bool:
    """Tells whether this is the process that prints and writes."""
    return jax.process_index() == 0


def on_first(action: Callable[[], Any], like: Any = ()) -> Any:
    """Calls `action` in the first process, and returns in all what it returned.

    Args:
      action: makes a tree of arrays.
      like: a tree of the same structure, shapes and dtypes.

    Raises:
      RefusedError: in the other processes, where the first one raised an error.
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
        raise RefusedError("process 0 did not go on; it says why")
    return multihost_utils.broadcast_one_to_all(result)


def gather(rows: np.ndarray) -> np.ndarray:
    """Returns the rows of all processes, in the order of processes, to each of them."""
    return np.asarray(multihost_utils.process_allgather(rows, tiled=True))
