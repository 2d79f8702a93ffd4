"""Times of whole programs, one library after the other in turn."""

import functools
import math
import statistics
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from compilers.programs import PROGRAMS

from timing.pairs import ratio
from timing.steps import jax_step, torch_steps

Cells = dict[str, str]
# Functions -> seconds of each of several rounds, for each function.
Interleaved = Callable[[list[Callable[[], Any]]], list[list[float]]]


def program_rows(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    libraries: dict[str, ModuleType],
    interleaved: Interleaved,
) -> Iterator[Cells]:
    """Measures training steps of a program; yields a row a library.

    Ours is also measured under `jaxnorm.checkpoint_policy` where it is a network.

    Raises:
      ShapeError: the program does not take an input of this shape.
    """
    make = functools.partial(jax_step, name, dtype=dtype, shape=shape)
    steps = {
        label: make(library=library, policy=False)
        for label, library in libraries.items()
    }
    if PROGRAMS[name].norm == "BatchNorm" and name != "batch":
        label, library = next(iter(libraries.items()))
        steps[f"{label} with policy"] = make(library=library, policy=True)
    steps |= torch_steps(name, dtype, shape)
    rounds = interleaved([step.run for step in steps.values()])
    images = len(shape) != 3
    for (label, step), times in zip(steps.items(), rounds, strict=True):
        memory = step.memory()
        seconds = statistics.median(times)
        items = shape[0] if images else math.prod(shape[:2])
        yield {
            "program": name,
            "shape": "x".join(map(str, shape)),
            "dtype": dtype,
            "library": label,
            "step, ms": f"{1e3 * seconds:.2f}",
            "ratio": ratio(times, rounds[0]),
            "a second": f"{items / seconds:,.0f} {'images' if images else 'tokens'}",
            "memory, MiB": "" if memory is None else f"{memory / 2**20:.1f}",
        }
