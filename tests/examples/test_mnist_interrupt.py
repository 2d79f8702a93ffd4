"""An interrupt that a destructor swallows is not lost."""

import signal

import interrupt
import pytest


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_within_a_destructor(monkeypatch):
    monkeypatch.setattr(interrupt, "_interrupted", interrupt.threading.Event())

    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    interrupt.remember()
    try:
        interrupt.check()
        Interrupted()  # deleted at once; its exception is printed and forgotten
        with pytest.raises(KeyboardInterrupt):
            interrupt.check()
    finally:
        signal.signal(signal.SIGINT, before)
