"""Compiles programs for TPUs and GPUs, without having them, and counts what they do.

The programs are single normalizers, some of them also with a mask (such as
`batch-masked`), and networks with normalizers, from `jaxnorm.linen` and from
`flax.linen`. Normalizers that Flax lacks are compared with the normalizer of jaxnorm
that they extend (such as `jaxnorm rms`). The compilers for TPUs and NVIDIA GPUs run on
any machine:

  pip install -e '.[tpu]' && python examples/compiled.py --target=v5e:2x2
  pip install -e '.[gpu]' && python examples/compiled.py --target=h100
  python examples/compiled.py --target=v5e:2x2 --program=layer --dtype=bfloat16
  python examples/compiled.py --target=h100 --program=resnet50 --policy=jaxnorm

All figures are for one device.

  traffic      Bytes between main memory and the chip, if each kernel reads its operands
               once and writes its results. In units of x: divided by the input bytes.
  kernels      Number of operations launched one after another, except copies.
  cycles       Sum of the estimates of the TPU compiler; other compilers give none.
  temporary    Main memory in addition to arguments and results.
  collectives  Number of collectives, and the bytes that a device sends to them, if each
               of N devices has a batch of this size.
  trace, lower, compile
               Seconds on this machine, for one run.

A ratio is ours divided by the other's, so ours does less work below 1. No figure is a
time measured on the accelerator. Traffic and cycles are plans of the compiler, without
caches, clock rates and overlap. They do not include repeated reads in a convolution or
matrix product of a library (GPU). They compare two programs of one compiler, not two
targets. `examples/benchmark.py` measures times on the accelerator.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

import flax
import jax
import jax.numpy as jnp
from benchmark import DTYPES, Row, show
from command_line import Parser, sizes
from compilers.measure import CompilationError, measure
from compilers.programs import LIBRARIES, PROGRAMS, compared
from compilers.steps import BlockError, ShapeError, Step, make_step
from compilers.targets import TARGETS, TargetError, compile_only_devices

STEPS = ["forward", "training"]
DEVICES = [4, 256]
# The other programs take many minutes to compile for a TPU.
DEFAULT = ["batch", "layer", "rms", "group", "instance", "chain"]
LEGEND = __doc__[__doc__.index("All figures are") :]
# For each figure of a record: its heading, divisor and format.
FIGURES = {
    "traffic": ("traffic, MiB", 2**20, ",.1f"),
    "traffic_in_x": ("in x", 1, ".2f"),
    "kernels": ("kernels", 1, ",.0f"),
    "cycles": ("cycles, thousands", 1000, ",.0f"),
    "temporary": ("temporary, MiB", 2**20, ",.1f"),
    **{
        f"{key}_on_{number}": (f"{key}, N = {number}", 1, ",.0f")
        for number in DEVICES
        for key in ("collectives", "bytes")
    },
    "trace": ("trace, s", 1, ".2f"),
    "lower": ("lower, s", 1, ".2f"),
    "compile": ("compile, s", 1, ".2f"),
}
Record = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Case:
    """A program to compile with each library, or to compare with its parent."""

    program: str
    step: str
    dtype: str
    shape: tuple[int, ...]
    policy: tuple[str, ...]  # libraries whose networks use jaxnorm.checkpoint_policy
    blocks: bool = False  # whether these networks rematerialize each block as well

    def steps(self) -> dict[str, Step]:
        """Returns the step of each library, or of our normalizer and its parent.

        Raises:
          ShapeError: the program does not accept an input of this shape.
          BlockError: its blocks cannot be rematerialized.
        """
        return {
            label: make_step(
                *(program, self.step, library, self.dtype, self.shape),
                policy=label in self.policy,
                blocks=label in self.policy and self.blocks,
            )
            for label, (program, library) in compared(self.program).items()
        }

    def measure(
        self,
        step: Step,
        devices: dict[int, Sequence[jax.Device]],
        memory: int | None,
    ) -> Record:
        """Compiles a step for one device, and for each number of devices."""
        alone = measure(step, devices[1], memory)
        in_x = None
        if not PROGRAMS[self.program].learns:  # its images are not activations
            x_bytes = math.prod(self.shape) * jnp.dtype(self.dtype).itemsize
            in_x = alone.counts.traffic / x_bytes
        record = {
            "traffic": alone.counts.traffic,
            "traffic_in_x": in_x,
            "kernels": alone.counts.kernels,
            "cycles": alone.counts.cycles,
            "temporary": alone.temporary,
            "trace": alone.trace,
            "lower": alone.lower,
            "compile": alone.compile,
        }
        for number, several in devices.items():
            if number > 1:
                counts = measure(step, several, memory).counts
                record[f"collectives_on_{number}"] = counts.collectives
                record[f"bytes_on_{number}"] = counts.collective_bytes
        return record


def rows(
    cases: dict[Case, dict[str, Step]],
    devices: dict[int, Sequence[jax.Device]],
    memory: int | None,
    output: TextIO,
) -> Iterator[Row]:
    """Compiles; yields a row per library and a row of ratios, and writes JSON.

    Raises:
      CompilationError: a program cannot be compiled.
    """
    for case, steps in cases.items():
        described = {
            "program": case.program,
            "step": case.step,
            "dtype": case.dtype,
            "shape": "x".join(map(str, case.shape)),
        }
        records = {}
        for library, step in steps.items():
            try:
                records[library] = record = case.measure(step, devices, memory)
            except CompilationError as error:
                what = " ".join([*described.values(), f"with {library}"])
                raise CompilationError(f"{what}: {error}") from error
            policy = library in case.policy
            line = dataclasses.asdict(case) | {"library": library, "policy": policy}
            print(json.dumps(line | record), file=output, flush=True)
            library += " with policy" * policy
            yield {**described, "library": library, **cells(record)}
        yield {**described, "library": "ratio", **ratios(*records.values())}


def cells(record: Record) -> Row:
    """Returns the figures of a record as table cells."""
    return {
        heading: "" if record[key] is None else format(record[key] / unit, form)
        for key, (heading, unit, form) in FIGURES.items()
        if key in record
    }


def ratios(ours: Record, theirs: Record) -> Row:
    """Returns our figures divided by theirs, if theirs are not 0."""
    return {
        heading: f"{ours[key] / theirs[key]:.3f}" if theirs[key] else ""
        for key, (heading, _, _) in FIGURES.items()
        if key in ours
    }


def make_parser() -> Parser:
    """Returns the parser of the command line."""
    parser = Parser(__doc__)
    parser.add_argument("--target", required=True, choices=TARGETS)
    parser.add_argument(
        "--program",
        action="append",
        choices=PROGRAMS,
        help=f"may be repeated; default: {', '.join(DEFAULT)}",
    )
    parser.add_argument("--step", action="append", choices=STEPS)
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument(
        "--shape", action="append", type=sizes, metavar="N,...,C", help="of the input"
    )
    parser.add_argument(
        "--policy",
        action="append",
        choices=LIBRARIES,
        help="library that uses jaxnorm.checkpoint_policy; default: none",
    )
    parser.add_argument(
        "--blocks",
        action="store_true",
        help="with --policy, rematerialize each block of a network as well",
    )
    parser.add_argument(
        "--devices",
        action="append",
        type=int,
        choices=[1, *DEVICES],
        help="number of devices for collectives; 1: none; default: 4 and 256",
    )
    parser.add_argument(
        "--json", metavar="FILE", help="for a line per library and case"
    )
    return parser


def main() -> None:
    """Parses the flags, compiles, and prints the tables."""
    parser = make_parser()
    flags = parser.parse_args()
    # Uses only the CPU, so that an existing accelerator is left alone.
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", max(DEVICES))
    # Cached programs would take no time to compile.
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        devices = {
            number: compile_only_devices(flags.target, number)
            for number in sorted({1, *(flags.devices or DEVICES)})
        }
        cases = [
            Case(program, step, dtype, shape, tuple(flags.policy or ()), flags.blocks)
            for program in flags.program or DEFAULT
            for shape in flags.shape or PROGRAMS[program].shapes
            for dtype in flags.dtype or DTYPES
            for step in flags.step or STEPS
        ]
        # Finds wrong flags before anything is compiled.
        steps = {case: case.steps() for case in cases}
        versions = f"jax {jax.__version__}, flax {flax.__version__}"
        title = f"Compiled for {flags.target}, {versions}"
        with open(flags.json or os.devnull, "w") as output:
            memory = TARGETS[flags.target].memory
            show(title, rows(steps, devices, memory, output))
    except (TargetError, ShapeError, BlockError, CompilationError, OSError) as error:
        parser.error(str(error))
    print(LEGEND)


if __name__ == "__main__":
    main()
