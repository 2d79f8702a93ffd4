"""An interrupt that a destructor swallows is not lost."""

import signal

import pytest
import signals


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_within_a_destructor(monkeypatch):
    monkeypatch.setattr(signals, "_interrupted", signals.threading.Event())

    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    signals.remember()
    try:
        signals.check()
        Interrupted()  # deleted at once; its exception is printed and forgotten
        with pytest.raises(KeyboardInterrupt):
            signals.check()
    finally:
        signal.signal(signal.SIGINT, before)
