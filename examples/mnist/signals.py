"""Signals that ask a run to end: Ctrl-C, and the SIGTERM of a cluster.

Python raises KeyboardInterrupt wherever the program happens to be. Within a destructor,
or a callback of the garbage collector (JAX has one), an exception is printed and
forgotten, and training would go on. So signals are remembered, and training asks.
Within another library, an exception would leave behind what that one did not expect; so
there a Ctrl-C is remembered only.
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
_questions = itertools.count()
_deferring = threading.Event()


class Terminated(Exception):  # noqa: N818
    """The run was told to end, as a cluster does before it takes a machine away."""


def remember() -> None:
    """Makes every SIGINT and SIGTERM from now on known to `check`.

    To be called before the distributed runtime starts: that one takes over SIGTERM.
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
    """Does the same for several processes, all of which end at the same question.

    Each of them has to ask equally often. Whichever was told, JAX's runtime, which has
    taken over SIGTERM, agrees with the others on the question to end at.
    """
    check()
    # Counted from 0: a signal may come before the first question, and then the runtime
    # chooses 1.
    question = next(_questions)
    if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(
        question
    ):
        raise Terminated


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within, a first Ctrl-C raises nothing, and waits for `check`; a second raises."""
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
