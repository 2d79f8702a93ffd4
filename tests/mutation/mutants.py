"""Faults put into the package by hand, each of which the tests must notice.

Tools like mutmut and cosmic-ray mutate operators and constants one by one; they cannot
express "the sum over devices is lost" or "the mask is ignored in the backward pass",
and spend their time on mutants that change nothing. So the faults here are a table.
"""

import pathlib
from typing import NamedTuple

import batch_mutants
import core_mutants
import hybrid_mutants
import sample_mutants
import weight_mutants


class Mutant(NamedTuple):
    """One fault, and the tests that have to fail because of it.

    Attributes:
      name: What is wrong.
      file: Where, within the package.
      before: Text that occurs once in the file.
      after: What replaces it.
      tests: Test files or functions of the default tier, separated by spaces.
      only: Which of their parametrizations are quick to notice it, for pytest's `-k`.
    """

    name: str
    file: str
    before: str
    after: str
    tests: str
    only: str = ""

    def apply(self, package: pathlib.Path) -> pathlib.Path:
        """Changes a copy of the package, and returns the changed file."""
        path = package / self.file
        source = path.read_text()
        number = source.count(self.before)
        if number != 1:
            raise ValueError(
                f"The mutant {self.name!r} must find its text once in {self.file}, "
                f"found it {number} times. Write it anew from the code of today:\n"
                f"{self.before}"
            )
        changed = source.replace(self.before, self.after)
        compile(changed, path, "exec")
        path.write_text(changed)
        return path


TABLE = [
    Mutant(name, file, *rest)
    for part in (
        core_mutants,
        batch_mutants,
        sample_mutants,
        weight_mutants,
        hybrid_mutants,
    )
    for file, rows in part.MUTANTS.items()
    for name, *rest in rows
]
