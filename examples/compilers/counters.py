"""Counts what a compiled program does: memory traffic, kernels, cycles, collectives.

What the program runs is counted: the instructions of its entry, those of a loop as
often as it is repeated (once where the compiler does not say how often), and those of
all branches. What is fused into an instruction is part of it.
"""

import dataclasses
import re
from collections.abc import Iterator

from compilers.hlo import Array, Computation, Instruction, Module, parse

# They move no data.
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
    """What one device does.

    Attributes:
      traffic: bytes that cross between main memory and the chip. A kernel reads each
        operand once, of one that it only slices the slices, and writes its results;
        arrays that the compiler keeps on the chip (TPU) cross where they are copied.
      kernels: operations that are launched one after the other, copies not included.
      cycles: the compiler's estimates (TPU), summed; None where it makes none.
      collectives: operations that talk to other devices.
      collective_bytes: what a device gives to them.
    """

    traffic: int
    kernels: int
    cycles: int | None
    collectives: int
    collective_bytes: int


def count(text: str) -> Counts:
    """Counts what a program does, from the text of its compiled HLO."""
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
    """Yields what runs: an instruction, what is beside it, and how often it runs."""
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
            # Slices that were copied to the chip side by side are one array there.
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
        # One that is given twice is read once.
        _read(name, instruction, scope, module)
        for name in set(instruction.operands)
    )
    return read + _bytes_in_main_memory(instruction.arrays)


def _read(
    name: str, instruction: Instruction, scope: Computation, module: Module
) -> int:
    """Returns the bytes that an instruction reads of an operand."""
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
