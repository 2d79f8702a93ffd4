"""Bad input, and the errors that the library has for it."""

import contextlib
import re

import pytest


@contextlib.contextmanager
def refused(*says):
    """Expects a ValueError or TypeError of ours, with all these words in its message.

    What JAX and checked annotations raise is a subclass of the two, or does not say
    what must hold.
    """
    with pytest.raises((ValueError, TypeError)) as caught:
        yield
    message = str(caught.value)
    assert caught.type in (ValueError, TypeError), caught.type
    assert "must" in message or "needs" in message, message
    for words in says:  # whole ones, else "x" is in "expected"
        assert re.search(rf"(?<!\w){re.escape(words)}(?!\w)", message), (words, message)
