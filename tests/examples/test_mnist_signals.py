"""Interrupts are not lost, and come when they do no harm."""

import signal

import pytest
import signals


@pytest.fixture
def remembered(monkeypatch):
    monkeypatch.setattr(signals, "_interrupted", signals.threading.Event())
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signals.remember()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("remembered")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_within_a_destructor():
    class Interrupted:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    signals.check()
    Interrupted()  # deleted at once; its exception is printed and forgotten
    with pytest.raises(KeyboardInterrupt):
        signals.check()


@pytest.mark.usefixtures("remembered")
def test_a_deferred_interrupt():
    @signals.deferred()
    def inner():
        signal.raise_signal(signal.SIGINT)

    with signals.deferred():
        inner()
        after = True
        # Whoever asks twice, because the first time did not help, does not wait.
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert after
    with pytest.raises(KeyboardInterrupt):
        signals.check()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
