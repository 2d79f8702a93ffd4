"""The command lines of the measurements: a mistake in one is a line and exit code 2."""

import argparse
import re
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that describes a script by its docstring.

    Args:
      description: The docstring.
    """

    def __init__(self, description: str | None):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Says in one line what is wrong, and ends the process with exit code 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def sizes(text: str) -> tuple[int, ...]:
    """Reads the shape of an input: 8,256,768, or as tables print it, 8x256x768."""
    found = re.split("[,x]", text)
    if not all(size.isdecimal() and int(size) > 0 for size in found):
        raise argparse.ArgumentTypeError(
            f"sizes must be positive integers, as in 8,256,768; got {text!r}"
        )
    return tuple(map(int, found))


def at_least(least: int) -> Callable[[str], int]:
    """Returns what reads a whole number that has a lower bound."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, at least {least}; got {text!r}"
            )
        return int(text)

    return read
