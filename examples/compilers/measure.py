"""Compiles a step for a target, and says what its compiler made of it."""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from compilers.counters import Counts, count
from compilers.programs import Step


class CompilationError(Exception):
    """The compiler refuses a program."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled step.

    Attributes:
      counts: what one device does.
      temporary: the bytes of main memory that a device needs at a time, besides
        arguments and results.
      trace: seconds from Python to a jaxpr, with empty caches.
      lower: seconds from there to StableHLO.
      compile: seconds from there to a program.
    """

    counts: Counts
    temporary: int
    trace: float
    lower: float
    compile: float


def measure(step: Step, devices: Sequence[jax.Device]) -> Compiled:
    """Compiles a step for devices, each of which has a batch of the size of the step's.

    Raises:
      CompilationError: the compiler refuses it, since it needs more memory than there
        is, for instance.
    """
    mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))

    def place(x: jax.ShapeDtypeStruct, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, spec)
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    variables = jax.tree.map(lambda x: place(x, PartitionSpec()), step.variables)
    batch = [
        place(
            jax.ShapeDtypeStruct((len(devices) * x.shape[0], *x.shape[1:]), x.dtype),
            PartitionSpec("data"),
        )
        for x in step.batch
    ]
    for _ in range(2):  # the first time, Python loads what it needs
        jax.clear_caches()
        times = [time.perf_counter()]
        traced = step.function.trace(variables, *batch)
        times.append(time.perf_counter())
        lowered = traced.lower()
        times.append(time.perf_counter())
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise CompilationError(str(error).splitlines()[0]) from error
    times.append(time.perf_counter())
    return Compiled(
        count(compiled.as_text()),
        compiled.memory_analysis().temp_size_in_bytes,
        *np.diff(times).tolist(),
    )
