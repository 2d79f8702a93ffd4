"""Command-line parsing for the measurements, with one-line error messages."""

import argparse
import re
from collections.abc import Callable
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """A parser that uses the docstring of a script as its description.

    Args:
      description: The docstring.
    """

    def __init__(self, description: str | None):
        super().__init__(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """Prints the error in one line, and exits with code 2."""
        self.exit(2, f"{self.prog}: error: {' '.join(message.split())}\n")


def sizes(text: str) -> tuple[int, ...]:
    """Parses the shape of an input, written as 8,256,768 or 8x256x768."""
    found = re.split("[,x]", text)
    if not all(size.isdecimal() and int(size) > 0 for size in found):
        raise argparse.ArgumentTypeError(
            f"sizes must be positive integers, as in 8,256,768; got {text!r}"
        )
    return tuple(map(int, found))


def at_least(least: int) -> Callable[[str], int]:
    """Returns a parser of integers with a lower bound."""

    def read(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be a whole number, at least {least}; got {text!r}"
            )
        return int(text)

    return read
