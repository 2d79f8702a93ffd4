"""Ctrl-C that is not lost.

Python raises KeyboardInterrupt wherever the program happens to be. Within a destructor,
or a callback of the garbage collector (JAX has one), an exception is printed and
forgotten, and training would go on. So it is remembered, too.
"""

import signal
import threading
from types import FrameType

_interrupted = threading.Event()


def remember() -> None:
    """Makes every Ctrl-C from now on known to `check`."""
    signal.signal(signal.SIGINT, _interrupt)


def check() -> None:
    """Raises KeyboardInterrupt if there was a Ctrl-C."""
    if _interrupted.is_set():
        raise KeyboardInterrupt


def _interrupt(signal_number: int, frame: FrameType | None) -> None:
    _interrupted.set()
    signal.default_int_handler(signal_number, frame)
