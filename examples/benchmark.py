"""Measures batch normalization: time, memory traffic, residuals, collectives.

Ours and `flax.linen`'s (and Haiku's and Keras's, where they are installed) run in turn
in one process, on whatever device JAX has. A machine's speed drifts, so times are
compared in pairs, and the median of the ratios counts.

  python examples/benchmark.py
  python examples/benchmark.py --shape=256,56,56,64 --dtype=bfloat16 --repeats=100
"""

import argparse
import dataclasses
import functools
import importlib.util
import itertools
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import rich.box
import rich.console
import rich.table
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxnorm.linen

# Convolutional networks from early to late layers, and a dense layer.
SHAPES = ["64,28,28,32", "32,14,14,256", "128,7,7,512", "4096,512"]
DTYPES = ["float32", "bfloat16"]
SECONDS_A_SAMPLE = 0.01
REPLICAS = 8
Tree = Any
Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Norm:
    """One library's batch norm as a pure function of explicit state.

    Attributes:
      apply: `(params, stats, x) -> (y, new_stats)`, in training mode.
      params: Scale and bias.
      stats: Running statistics.
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


def linen(module: type[flax.linen.Module], x: jax.Array, **options: Any) -> Norm:
    """Batch norm of a Flax Linen class."""
    norm = module(use_running_average=False, dtype=x.dtype, **options)
    variables = norm.init(jax.random.key(0), x)

    def apply(params: Tree, stats: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        variables = {"params": params, "batch_stats": stats}
        y, updates = norm.apply(variables, x, mutable=["batch_stats"])
        return y, updates["batch_stats"]

    return Norm(apply, variables["params"], variables["batch_stats"])


def haiku_norm(x: jax.Array) -> Norm:
    """Batch norm of Haiku."""
    import haiku

    def function(x: jax.Array) -> jax.Array:
        norm = haiku.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.99)
        return norm(x, is_training=True)

    transformed = haiku.transform_with_state(function)
    params, stats = transformed.init(None, x)
    return Norm(lambda p, s, x: transformed.apply(p, s, None, x), params, stats)


def keras_norm(x: jax.Array) -> Norm:
    """Batch norm of Keras over JAX."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    norm = keras.layers.BatchNormalization(dtype=x.dtype.name)
    norm.build(x.shape)

    def apply(params: Tree, stats: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        return norm.stateless_call(params, stats, x, training=True)

    params = [variable.value for variable in norm.trainable_variables]
    stats = [variable.value for variable in norm.non_trainable_variables]
    return Norm(apply, params, stats)


def libraries() -> dict[str, Callable[[jax.Array], Norm]]:
    """The libraries to measure, ours first."""
    found = {
        "jaxnorm": functools.partial(linen, jaxnorm.linen.BatchNorm),
        "flax.linen": functools.partial(linen, flax.linen.BatchNorm),
    }
    if importlib.util.find_spec("haiku"):
        found["haiku"] = haiku_norm
    if importlib.util.find_spec("keras"):
        found["keras"] = keras_norm
    return found


def sample(function: Callable[[], Tree], calls: int) -> float:
    """Returns the seconds of a call, averaged over some calls."""
    start = time.perf_counter()
    for _ in range(calls):
        jax.block_until_ready(function())
    return (time.perf_counter() - start) / calls


def interleaved(functions: list[Callable[[], Tree]], repeats: int) -> list[list[float]]:
    """Returns `repeats` times of each function, measured in turn."""
    calls = []
    for function in functions:
        sample(function, 2)  # compiles
        calls.append(max(1, int(SECONDS_A_SAMPLE / sample(function, 2))))
    rounds = [
        [sample(f, n) for f, n in zip(functions, calls, strict=True)]
        for _ in range(repeats)
    ]
    return [list(times) for times in zip(*rounds, strict=True)]


def saved_bytes(norm: Norm, x: jax.Array) -> float:
    """Returns the bytes kept for the backward pass, an element of x."""
    _, backward, _ = jax.vjp(
        lambda params, x: norm.apply(params, norm.stats, x),
        norm.params,
        x,
        has_aux=True,
    )
    return sum(leaf.nbytes for leaf in jax.tree.leaves(backward)) / x.size


def time_rows(dtype: str, shape: tuple[int, ...], repeats: int) -> Iterator[Row]:
    """Measures one shape and dtype; yields a row a library."""
    keys = jax.random.split(jax.random.key(0))
    x = (2 * jax.random.normal(keys[0], shape) + 1).astype(dtype)
    cotangent = jax.random.normal(keys[1], shape).astype(dtype)
    norms = {name: make(x) for name, make in libraries().items()}

    forward, both = [], []
    for norm in norms.values():
        args = (norm.params, norm.stats, x)
        forward.append(functools.partial(jax.jit(norm.apply), *args))
        step = functools.partial(jax.jit(norm.forward_and_backward), *args)
        both.append(functools.partial(step, cotangent))
    copy = functools.partial(jax.jit(jnp.copy), x)
    *forward_times, copy_times = interleaved([*forward, copy], repeats)
    both_times = interleaved(both, repeats)

    def ratio(others: list[float], ours: list[float]) -> str:
        pairs = [other / our for other, our in zip(others, ours, strict=True)]
        return f"{statistics.median(pairs):.2f}"

    def gigabytes(times: list[float]) -> str:
        return f"{2 * x.nbytes / statistics.median(times) / 1e9:.1f}"

    for name, alone, step in zip(norms, forward_times, both_times, strict=True):
        yield {
            "shape": "x".join(map(str, shape)),
            "dtype": dtype,
            "library": name,
            "forward, ms": f"{1e3 * statistics.median(alone):.2f}",
            "forward ratio": ratio(alone, forward_times[0]),
            "and backward, ms": f"{1e3 * statistics.median(step):.2f}",
            "and backward ratio": ratio(step, both_times[0]),
            # as if x were read once, which no training step can do
            "GB/s: forward / copy": f"{gigabytes(alone)} / {gigabytes(copy_times)}",
            "saved, bytes an element": f"{saved_bytes(norms[name], x):.2f}",
        }


def collectives(module: type[flax.linen.Module], mode: str, *, backward: bool) -> int:
    """Returns the all-reduces of the compiled step on several (simulated) devices."""
    devices = jax.devices("cpu")[:REPLICAS]
    mesh = jax.make_mesh((REPLICAS,), ("data",), (AxisType.Auto,), devices=devices)
    x = jax.device_put(
        jnp.ones((4 * REPLICAS, 8, 8, 16)), NamedSharding(mesh, P("data"))
    )
    norm = linen(module, x, axis_name=None if mode == "jit" else "data")
    step = norm.forward_and_backward if backward else norm.apply
    arrays = [x, x] if backward else [x]
    if mode != "jit":
        check_vma = mode == "shard_map"
        # Gradients of parameters are summed already where types tell what varies.
        gradients = (P() if check_vma else P("data"), P("data"))
        step = jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(P(), P(), *(P("data") for _ in arrays)),
            out_specs=(P("data"), P(), gradients) if backward else (P("data"), P()),
            check_vma=check_vma,
        )
    compiled = jax.jit(step).lower(norm.params, norm.stats, *arrays).compile()
    return len(re.findall(r" all-reduce(?:-start)?\(", compiled.as_text()))


def collective_rows() -> Iterator[Row]:
    """Counts collectives; yields a row a library and mode."""
    modules = {"jaxnorm": jaxnorm.linen.BatchNorm, "flax.linen": flax.linen.BatchNorm}
    for mode in ("jit", "shard_map", "shard_map, check_vma=False"):
        for name, module in modules.items():
            yield {
                "mode": mode,
                "library": name,
                "forward": str(collectives(module, mode, backward=False)),
                "and backward": str(collectives(module, mode, backward=True)),
            }


def show(title: str, rows: Iterator[Row]) -> None:
    """Prints a table that can be pasted into Markdown."""
    table = rich.table.Table(title=title, box=rich.box.MARKDOWN)
    for row in rows:
        if not table.columns:
            for name in row:
                table.add_column(name)
        table.add_row(*row.values())
    rich.console.Console(width=170).print(table)


def main() -> None:
    """Parses the flags, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--shape", action="append", help="N,...,C; may be repeated", metavar="SIZES"
    )
    parser.add_argument("--dtype", action="append", choices=DTYPES)
    parser.add_argument("--repeats", type=int, default=30, help="pairs of samples")
    flags = parser.parse_args()

    # For counting collectives only: what is timed runs on one device.
    jax.config.update("jax_num_cpu_devices", REPLICAS)
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind} ({device.platform})")
    print("Ratios are another's time over ours: above 1, ours is faster.")
    shapes = [tuple(map(int, s.split(","))) for s in flags.shape or SHAPES]
    cases = itertools.product(flags.dtype or DTYPES, shapes)
    show(
        "A training step of one layer",
        (row for case in cases for row in time_rows(*case, flags.repeats)),
    )
    show(
        f"All-reduces of a compiled step of one layer on {REPLICAS} devices",
        collective_rows(),
    )


if __name__ == "__main__":
    main()
