"""Compiles a step for a target, and measures the compiled program."""

import dataclasses
import time
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from compilers.counters import Counts, count
from compilers.steps import Step


class CompilationError(Exception):
    """The compiler rejects a program."""


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A compiled step.

    Attributes:
      counts: counts for one device.
      temporary: peak bytes of main memory of a device, in addition to arguments and
        results.
      trace: seconds from Python to a jaxpr, with empty caches.
      lower: seconds from there to StableHLO.
      compile: seconds from there to a program.
    """

    counts: Counts
    temporary: int
    trace: float
    lower: float
    compile: float


def measure(
    step: Step, devices: Sequence[jax.Device], memory: int | None = None
) -> Compiled:
    """Compiles a step for devices that each get a batch of the step's size.

    Args:
      step: the step to compile.
      devices: one device, or several that share the work.
      memory: bytes of memory of each device; None if the compiler knows it.

    Raises:
      CompilationError: the compiler rejects it, or it needs more memory.
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
    for _ in range(2):  # the first run includes Python imports
        jax.clear_caches()
        times = [time.perf_counter()]
        traced = step.function.trace(variables, *batch)
        times.append(time.perf_counter())
        lowered = traced.lower()
        times.append(time.perf_counter())
    given = jax.tree.leaves((step.variables, step.batch))
    _check_fits(sum(x.size * x.dtype.itemsize for x in given), memory)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        raise CompilationError(str(error).splitlines()[0]) from error
    times.append(time.perf_counter())
    needed = compiled.memory_analysis()
    temporary = needed.temp_size_in_bytes
    results = needed.output_size_in_bytes - needed.alias_size_in_bytes
    _check_fits(needed.argument_size_in_bytes + results + temporary, memory)
    return Compiled(count(compiled.as_text()), temporary, *np.diff(times).tolist())


def _check_fits(needed: int, memory: int | None) -> None:
    # Both in bytes.
    if memory is not None and needed > memory:
        raise CompilationError(
            f"the program must fit into {memory / 2**30:,.0f} GiB of memory, and needs "
            f"{needed / 2**30:,.0f} GiB; choose a smaller --shape"
        )
