"""Tables of the times of whole programs, measured alternately for each library."""

import functools
import math
import statistics
from collections.abc import Callable, Iterator
from typing import Any

from compilers.programs import PROGRAMS, compared

from timing.pairs import ratio
from timing.steps import jax_step, torch_steps

Cells = dict[str, str]
# Maps functions to the seconds of each round, for each function.
Interleaved = Callable[[list[Callable[[], Any]]], list[list[float]]]


def program_rows(
    name: str,
    dtype: str,
    shape: tuple[int, ...],
    interleaved: Interleaved,
) -> Iterator[Cells]:
    """Measures training steps of a program; yields a row per library.

    If Flax lacks the normalizer, the rows are for our normalizer and its parent. Our
    networks are also measured under `jaxnorm.checkpoint_policy`.

    Raises:
      ShapeError: the program does not accept an input of this shape.
    """
    make = functools.partial(jax_step, dtype=dtype, shape=shape)
    sides = compared(name)
    steps = {label: make(*side, policy=False) for label, side in sides.items()}
    if PROGRAMS[name].norm == "BatchNorm" and name != "batch":
        label, side = next(iter(sides.items()))
        steps[f"{label} with policy"] = make(*side, policy=True)
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
