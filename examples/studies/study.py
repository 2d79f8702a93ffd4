"""The definition of a study, and how to load one."""

import difflib
import importlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_collections
from matplotlib.figure import Figure

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# One combination of the swept values, by name.
Point = dict[str, Any]
# Results at a point, by name: numbers or nested lists, for each seed.
Result = dict[str, Any]


class StudyError(ValueError):
    """An invalid study or configuration; the message is one line for the user."""


class Finding(NamedTuple):
    """A point and its results."""

    point: Point
    result: Result


class Study(NamedTuple):
    """A question, and the functions that answer it.

    Attributes:
      question: the question in one line.
      run: `run(config, points)` yields a finding for each point as soon as it is done.
      draw: `draw(config, findings)` returns the figure.
      points: `points(config)` returns the points to run; by default, all combinations
        of `config.sweep`.
      choices: valid values, by name in `config.sweep`, if they are restricted.
      cpu_devices: number of devices to simulate if JAX finds only a CPU.
    """

    question: str
    run: Callable[[ml_collections.ConfigDict, list[Point]], Iterable[Finding]]
    draw: Callable[[ml_collections.ConfigDict, list[Finding]], Figure]
    points: Callable[[ml_collections.ConfigDict], list[Point]] = lambda config: list(
        combinations(config.sweep)
    )
    choices: Mapping[str, Collection[Any]] = MappingProxyType({})
    cpu_devices: int = 1


def combinations(sweep: ml_collections.ConfigDict) -> Iterator[Point]:
    """Yields a point for each combination of the values."""
    names = list(sweep.keys())
    for values in itertools.product(*(sweep[name] for name in names)):
        yield dict(zip(names, values, strict=True))


def names() -> list[str]:
    """Returns the names of all studies."""
    return sorted(
        path.stem.removeprefix("study_") for path in CONFIGS.glob("study_*.py")
    )


def config_path(name: str) -> Path:
    """Returns the path of the configuration of a study.

    Raises:
      StudyError: there is no such study.
    """
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=3, cutoff=0.4)
        guess = f"did you mean {' or '.join(near)}?" if near else "--list says which"
        raise StudyError(f"there is no study {name!r}; {guess}")
    return CONFIGS / f"study_{name}.py"


def load(name: str) -> Study:
    """Returns the study of that name, from the file of that name."""
    return importlib.import_module(name).STUDY
