"""Measures time, memory traffic and residuals of normalization layers and networks.

Layers of jaxnorm and `flax.linen` (and batch norm of Haiku and Keras, if installed) run
alternately in one process, on the device that JAX finds. The speed of a machine drifts,
so times are compared in pairs: a ratio is the median over all pairs, with quartiles. If
the quartiles include 1, the comparison is "open".

  python examples/benchmark.py
  python examples/benchmark.py --norm=batch --shape=256,56,56,64 --repeats=100
  python examples/benchmark.py --program=all --dtype=bfloat16 --repeats=7 --json=FILE

`--program` measures training steps of the programs in `examples/compiled.py`, which
include single norms. It also measures PyTorch (channels last, eager and with
`torch.compile`), if installed. Memory is the peak memory of the compiled program; for
PyTorch, the largest allocation.
"""

import dataclasses
import functools
import importlib.util
import json
import os
import statistics
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import rich.box
import rich.console
import rich.table
from command_line import Parser, at_least, sizes
from compilers.programs import LIBRARIES, PROGRAMS
from timing.pairs import interleaved, ratio
from timing.table import program_rows

import jaxnorm.linen

# Shapes of early to late convolutional layers, of sequences, and of a dense layer.
IMAGES = ["64,28,28,32", "32,14,14,256", "128,7,7,512"]
SHAPES = {
    "batch": [*IMAGES, "4096,512"],
    "layer": ["64,28,28,32", "32,14,14,256", "8,256,768", "4096,512"],
    "rms": ["64,28,28,32", "32,14,14,256", "8,256,768", "4096,512"],
    "group": IMAGES,
    "instance": IMAGES,
}
CLASSES = {
    "batch": "BatchNorm",
    "layer": "LayerNorm",
    "rms": "RMSNorm",
    "group": "GroupNorm",
    "instance": "InstanceNorm",
}
DTYPES = ["float32", "bfloat16"]
Tree = Any
Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Norm:
    """The normalizer of one library as a pure function with explicit state.

    Attributes:
      apply: `(params, stats, x) -> (y, new_stats)`, in training mode.
      params: Scale and bias.
      stats: Running statistics; empty if there are none.
    """

    apply: Callable[[Tree, Tree, jax.Array], tuple[jax.Array, Tree]]
    params: Tree
    stats: Tree

    def forward_and_backward(
        self, params: Tree, stats: Tree, x: jax.Array, cotangent: jax.Array
    ) -> tuple:
        """Returns the output, the new statistics, and the gradients of params and x."""
        y, backward, new_stats = jax.vjp(
            lambda params, x: self.apply(params, stats, x), params, x, has_aux=True
        )
        return y, new_stats, backward(cotangent)


def linen(library: ModuleType, name: str, x: jax.Array, **options: Any) -> Norm:
    """Returns a normalizer of `flax.linen` or `jaxnorm.linen`."""
    if name == "batch":
        options["use_running_average"] = False
    norm = getattr(library, CLASSES[name])(dtype=x.dtype, **options)
    variables = norm.init(jax.random.key(0), x)

    def apply(params: Tree, stats: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        variables = {"params": params, "batch_stats": stats}
        y, updates = norm.apply(variables, x, mutable=["batch_stats"])
        return y, updates.get("batch_stats", {})

    return Norm(apply, variables["params"], variables.get("batch_stats", {}))


def haiku_norm(x: jax.Array) -> Norm:
    """Returns batch norm of Haiku."""
    import haiku

    def function(x: jax.Array) -> jax.Array:
        norm = haiku.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.99)
        return norm(x, is_training=True)

    transformed = haiku.transform_with_state(function)
    params, stats = transformed.init(None, x)
    return Norm(lambda p, s, x: transformed.apply(p, s, None, x), params, stats)


def keras_norm(x: jax.Array) -> Norm:
    """Returns batch norm of Keras with the JAX backend."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    norm = keras.layers.BatchNormalization(dtype=x.dtype.name)
    norm.build(x.shape)

    def apply(params: Tree, stats: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        return norm.stateless_call(params, stats, x, training=True)

    params = [variable.value for variable in norm.trainable_variables]
    stats = [variable.value for variable in norm.non_trainable_variables]
    return Norm(apply, params, stats)


def libraries(name: str) -> dict[str, Callable[[jax.Array], Norm]]:
    """Returns the libraries in which to measure a normalizer, ours first."""
    found = {
        library: functools.partial(linen, module, name)
        for library, module in LIBRARIES.items()
    }
    if name != "batch":
        return found
    if importlib.util.find_spec("haiku"):
        found["haiku"] = haiku_norm
    if importlib.util.find_spec("keras"):
        found["keras"] = keras_norm
    return found


def saved_bytes(norm: Norm, x: jax.Array) -> float:
    """Returns the bytes kept for the backward pass per element of x."""
    _, backward, _ = jax.vjp(
        lambda params, x: norm.apply(params, norm.stats, x),
        norm.params,
        x,
        has_aux=True,
    )
    return sum(leaf.nbytes for leaf in jax.tree.leaves(backward)) / x.size


def time_rows(
    name: str, dtype: str, shape: tuple[int, ...], repeats: int
) -> Iterator[Row]:
    """Measures a normalizer with one shape and dtype; yields a row per library."""
    keys = jax.random.split(jax.random.key(0))
    x = (2 * jax.random.normal(keys[0], shape) + 1).astype(dtype)
    cotangent = jax.random.normal(keys[1], shape).astype(dtype)
    norms = {library: make(x) for library, make in libraries(name).items()}

    forward, both = [], []
    for norm in norms.values():
        args = (norm.params, norm.stats, x)
        forward.append(functools.partial(jax.jit(norm.apply), *args))
        step = functools.partial(jax.jit(norm.forward_and_backward), *args)
        both.append(functools.partial(step, cotangent))
    copy = functools.partial(jax.jit(jnp.copy), x)
    *forward_times, copy_times = interleaved([*forward, copy], repeats)
    both_times = interleaved(both, repeats)

    def gigabytes(times: list[float]) -> str:
        return f"{2 * x.nbytes / statistics.median(times) / 1e9:.1f}"

    for library, alone, step in zip(norms, forward_times, both_times, strict=True):
        yield {
            "norm": name,
            "shape": "x".join(map(str, shape)),
            "dtype": dtype,
            "library": library,
            "forward, ms": f"{1e3 * statistics.median(alone):.2f}",
            "forward ratio": ratio(alone, forward_times[0]),
            "and backward, ms": f"{1e3 * statistics.median(step):.2f}",
            "and backward ratio": ratio(step, both_times[0]),
            # assumes one read of x, although every training step needs more
            "GB/s: forward / copy": f"{gigabytes(alone)} / {gigabytes(copy_times)}",
            "saved, bytes an element": f"{saved_bytes(norms[library], x):.2f}",
        }


def show(title: str, rows: Iterator[Row]) -> None:
    """Prints a Markdown table."""
    table = rich.table.Table(title=title, box=rich.box.MARKDOWN)
    for row in rows:
        if not table.columns:
            for name in row:
                table.add_column(name)
        table.add_row(*row.values())
    rich.console.Console(width=280).print(table)


def recorded(rows: Iterator[Row], output: TextIO) -> Iterator[Row]:
    """Yields the rows, and writes each as a JSON line with device and versions."""
    device = jax.devices()[0].device_kind
    for row in rows:
        line = {"jax": jax.__version__, "device": device}
        print(json.dumps(line | row), file=output, flush=True)
        yield row


def main() -> None:
    """Parses the flags, measures, and prints the tables."""
    parser = Parser(__doc__)
    parser.add_argument("--norm", action="append", choices=CLASSES, help="default: all")
    parser.add_argument(
        "--shape",
        action="append",
        type=sizes,
        help="N,...,C or Nx...xC; repeats",
        metavar="SIZES",
    )
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument(
        "--repeats", type=at_least(2), default=30, help="pairs of samples"
    )
    parser.add_argument(
        "--program",
        action="append",
        choices=[*PROGRAMS, "all"],
        metavar="PROGRAM",
        help=f"one of {', '.join(PROGRAMS)}, or all; repeats",
    )
    parser.add_argument("--json", metavar="FILE", help="gets a line a row")
    flags = parser.parse_args()
    named = flags.program or []
    programs = PROGRAMS if "all" in named else named
    dtypes = flags.dtype or DTYPES
    cases = [
        (norm, dtype, shape)
        for norm in flags.norm or ([] if programs else CLASSES)
        for dtype in dtypes
        for shape in flags.shape or map(sizes, SHAPES[norm])
    ]
    for norm, dtype, shape in cases:
        try:  # before anything is measured
            x = jax.ShapeDtypeStruct(shape, dtype)
            jax.eval_shape(lambda x, norm=norm: linen(jaxnorm.linen, norm, x).params, x)
        except (TypeError, ValueError) as error:
            parser.error(f"--norm={norm} does not accept shape {shape}: {error}")

    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind} ({device.platform})")
    print(
        "Ratios are another's time over ours: the median of pairs (and quartiles).\n"
        'Above 1, ours is faster. If the quartiles include 1, the comparison is "open".'
    )
    timer = functools.partial(interleaved, repeats=flags.repeats)
    with open(flags.json or os.devnull, "w") as output:
        if cases:
            rows = (row for case in cases for row in time_rows(*case, flags.repeats))
            show("A training step of one layer", recorded(rows, output))
        if programs:
            rows = (
                row
                for name in programs
                for dtype in dtypes
                for shape in flags.shape or PROGRAMS[name].shapes
                for row in program_rows(name, dtype, shape, timer)
            )
            show("A training step of a program", recorded(rows, output))


if __name__ == "__main__":
    main()
