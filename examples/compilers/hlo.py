"""Reads the text of a compiled program (HLO) as instructions that can be counted."""

import dataclasses
import math
import re
from collections.abc import Iterator

# f32[8,128]{1,0:T(8,128)S(1)}: type, sizes, and layout with tiles and memory space.
_ARRAY = re.compile(r"\b([a-z]\w*)\[([^\]]*)\](?:\{([^}]*)\})?")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition|branch_computations"
    r"|true_computation|false_computation)=(\{[^}]*\}|%[\w.\-]+)"
)


@dataclasses.dataclass(frozen=True)
class Array:
    """An array and its layout in memory.

    Attributes:
      bits: bits of an element; 0 for tokens, which are not data.
      sizes: sizes of the axes.
      layout: axes from minor to major, then tiles and memory space, as HLO writes them.
    """

    bits: int
    sizes: tuple[int, ...]
    layout: str = ""

    @property
    def nbytes(self) -> int:
        """Returns the bytes of the elements."""
        return math.prod(self.sizes) * self.bits // 8

    @property
    def stored_bytes(self) -> int:
        """Returns the bytes in memory; TPUs pad the axes to whole tiles."""
        tile = re.search(r"T\(([\d,]+)\)", self.layout)
        order = [int(axis) for axis in re.findall(r"\d+", self.layout.split(":")[0])]
        if tile is None or len(order) != len(self.sizes):
            return self.nbytes
        sizes = [self.sizes[axis] for axis in order]
        minor_first = reversed(tile[1].split(","))
        for i, step in enumerate(map(int, list(minor_first)[: len(sizes)])):
            sizes[i] = -(-sizes[i] // step) * step
        return math.prod(sizes) * self.bits // 8

    @property
    def in_main_memory(self) -> bool:
        """Whether the array is in main memory, not on the chip or on the host."""
        return re.search(r"S\([1-9]\d*\)", self.layout) is None


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction: `name = shape opcode(operands), attributes`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    arguments: str
    attributes: str

    @property
    def arrays(self) -> list[Array]:
        """Returns the arrays of the result; several if it is a tuple."""
        return [
            Array(
                0 if kind == "token" else 8 if kind == "pred" else _bits(kind),
                tuple(int(size) for size in re.findall(r"\d+", sizes)),
                layout,
            )
            for kind, sizes, layout in _ARRAY.findall(self.shape)
        ]

    @property
    def called(self) -> list[str]:
        """Returns the names of the computations that the instruction calls."""
        names = _CALLED.findall(self.attributes)
        return [name for called in names for name in _NAME.findall(called)]


def _bits(kind: str) -> int:
    """Returns the bits of a type: the first number in bf16, f8e4m3fn or c64."""
    number = re.search(r"\d+", kind)
    return int(number[0]) if number else 0


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """The computations of a program by name, and the name of its entry."""

    computations: dict[str, Computation]
    entry: str

    def inside(
        self, instruction: Instruction, scope: Computation
    ) -> Iterator[tuple[Instruction, Computation]]:
        """Yields an instruction and all that it calls, each with its computation."""
        yield instruction, scope
        for name in instruction.called:
            called = self.computations[name]
            for inner in called.values():
                yield from self.inside(inner, called)


def parse(text: str) -> Module:
    """Reads the text of a compiled program.

    Raises:
      ValueError: the text has no entry computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, {}
    for line in text.splitlines():
        if instruction := _INSTRUCTION.match(line):
            current[instruction[2]] = _read(instruction[2], instruction[3])
        elif computation := _COMPUTATION.match(line):
            current = computations[computation[2]] = {}
            if computation[1]:
                entry = computation[2]
    if entry is None:
        raise ValueError("a compiled program must have an ENTRY; this is not HLO")
    return Module(computations, entry)


def _read(name: str, text: str) -> Instruction:
    shape, rest = _split(text) if text.startswith("(") else text.split(maxsplit=1)
    opcode, rest = rest.split("(", maxsplit=1)
    arguments, attributes = _split("(" + rest)
    return Instruction(
        name,
        shape,
        opcode.strip(),
        tuple(_NAME.findall(arguments)),
        arguments[1:-1],
        attributes,
    )


def _split(text: str) -> tuple[str, str]:
    """Splits the text after the parenthesis that closes the first one."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[: i + 1], text[i + 1 :]
    raise ValueError(f"parentheses must be closed, in {text[:80]!r}")
