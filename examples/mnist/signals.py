"""Handling of signals that ask a run to end: Ctrl-C, and the SIGTERM of a cluster.

Python raises KeyboardInterrupt wherever the program happens to be. In a destructor or a
callback of the garbage collector (JAX has one), an exception is printed and then
ignored, and training would continue. So signals are stored, and training checks for
them. An exception inside another library could leave it in a broken state, so there
Ctrl-C is only stored.
"""

import contextlib
import itertools
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

_interrupted = threading.Event()
_terminated = threading.Event()
_check_indices = itertools.count()
_deferring = threading.Event()


class Terminated(Exception):  # noqa: N818
    """The run got SIGTERM, which a cluster sends before it takes a machine away."""


def remember() -> None:
    """Stores every SIGINT and SIGTERM from now on, for `check`.

    Call it before the distributed runtime starts, which takes over SIGTERM.
    """
    signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, lambda number, frame: _terminated.set())


def check() -> None:
    """Raises KeyboardInterrupt after a Ctrl-C, and `Terminated` after a SIGTERM."""
    if _interrupted.is_set():
        raise KeyboardInterrupt
    if _terminated.is_set():
        raise Terminated


def check_together() -> None:
    """Does the same for several processes, all of which end at the same check.

    All processes must call it equally often. If any of them gets SIGTERM, JAX's
    runtime, which has taken over SIGTERM, makes all processes agree on the check at
    which to end.
    """
    check()
    # Checks count from 0: if a signal comes before the first check, the runtime chooses
    # 1.
    check_index = next(_check_indices)
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(
        check_index
    ):
        raise Terminated


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Stores a first Ctrl-C in the body for `check`; a second one raises."""
    if _deferring.is_set():
        yield
        return
    _deferring.set()
    try:
        yield
    finally:
        _deferring.clear()


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    first = not _interrupted.is_set()
    _interrupted.set()
    if not (first and _deferring.is_set()):
        signal.default_int_handler(signal_number, frame)
