"""Counts the memory traffic, kernels, cycles and collectives of a compiled program.

It counts the instructions that run: those of the entry, those of a loop as often as it
is repeated (once if the compiler does not say how often), and those of all branches. A
fused operation is part of its instruction.
"""

import dataclasses
import re
from collections.abc import Iterator

from compilers.hlo import Array, Computation, Instruction, Module, parse

# These instructions move no data.
_FREE = {
    "add-dependency",
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
_COPIES = {"copy-start", "slice-start"}  # between main memory and the chip
_COLLECTIVES = {
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
}
_SLICES = {"dynamic-slice", "gather", "slice"}
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLS = {"async-start", "call", "conditional", "while"}


@dataclasses.dataclass(frozen=True)
class Counts:
    """The counts for one device.

    Attributes:
      traffic: bytes between main memory and the chip. A kernel reads each operand once
        (only the slices, if it slices it) and writes its results. Arrays that the
        compiler keeps on the chip (TPU) count where they are copied.
      kernels: number of operations launched one after another, without copies.
      cycles: sum of the compiler's estimates (TPU); None if it gives none.
      collectives: number of operations that communicate with other devices.
      collective_bytes: bytes that a device sends to them.
    """

    traffic: int
    kernels: int
    cycles: int | None
    collectives: int
    collective_bytes: int


def count(text: str) -> Counts:
    """Counts the work of a program, from the text of its compiled HLO."""
    module = parse(text)
    traffic = kernels = collectives = collective_bytes = 0
    cycles = None
    for instruction, scope, times in _executed(module, module.entry):
        traffic += times * _traffic(instruction, scope, module)
        kernels += times * (instruction.opcode not in _COPIES)
        if estimate := re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes):
            cycles = (cycles or 0) + times * int(estimate[1])
        for inner, beside in module.inside(instruction, scope):
            if inner.opcode.removesuffix("-start") in _COLLECTIVES:
                given = _operands(inner, beside)
                collectives += times
                collective_bytes += times * sum(array.nbytes for array in given)
    return Counts(traffic, kernels, cycles, collectives, collective_bytes)


def _executed(
    module: Module, name: str, times: int = 1
) -> Iterator[tuple[Instruction, Computation, int]]:
    """Yields each instruction that runs, its computation, and how often it runs."""
    scope = module.computations[name]
    for instruction in scope.values():
        opcode = instruction.opcode
        if opcode in _CALLS:
            trips = _TRIPS.search(instruction.attributes)
            repeated = times * int(trips[1]) if trips else times
            for called in instruction.called:
                yield from _executed(module, called, repeated)
        elif not (
            opcode in _FREE
            or opcode.endswith(("-done", "-update"))
            # Slices that are copied to the chip together are one array there.
            or 'custom_call_target="ConcatBitcast"' in instruction.attributes
        ):
            yield instruction, scope, times


def _operands(instruction: Instruction, scope: Computation) -> list[Array]:
    return [array for name in instruction.operands for array in scope[name].arrays]


def _traffic(instruction: Instruction, scope: Computation, module: Module) -> int:
    if instruction.opcode in _COPIES:
        # The result is (to, from, context) of a copy, ((from), to, context) of a slice.
        first, second = instruction.arrays[:2]
        to = first if instruction.opcode == "copy-start" else second
        return to.stored_bytes * (first.in_main_memory + second.in_main_memory)
    read = sum(
        # An operand that is given twice is read once.
        _read(name, instruction, scope, module)
        for name in set(instruction.operands)
    )
    return read + _bytes_in_main_memory(instruction.arrays)


def _read(
    name: str, instruction: Instruction, scope: Computation, module: Module
) -> int:
    """Returns the bytes that an instruction reads from an operand."""
    whole = _bytes_in_main_memory(scope[name].arrays)
    if instruction.opcode != "fusion":
        return whole
    (called,) = instruction.called
    fused = module.computations[called].values()
    places = [str(i) for i, other in enumerate(instruction.operands) if other == name]
    inside = {
        inner.name
        for inner in fused
        if inner.opcode == "parameter" and inner.arguments in places
    }
    users = [user for user in fused if inside.intersection(user.operands)]
    if any(user.opcode not in _SLICES for user in users):
        return whole
    return min(whole, sum(array.nbytes for user in users for array in user.arrays))


def _bytes_in_main_memory(arrays: list[Array]) -> int:
    return sum(array.stored_bytes for array in arrays if array.in_main_memory)
