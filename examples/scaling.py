"""Measures what synchronized statistics add to the all-reduces of the MNIST step.

Compiles the training step of examples/mnist for simulated devices, and counts the bytes
of the all-reduces in the compiled program. In a ring of n devices, each sends
2 (n - 1) / n times as many bytes, in 2 (n - 1) consecutive messages.

  python examples/scaling.py
  python examples/scaling.py --devices=8 --devices=4096
"""

import math
import re
import runpy
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
from benchmark import Row, show
from command_line import Parser, at_least
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

EXAMPLES = Path(__file__).resolve().parent
sys.path.insert(0, str(EXAMPLES / "mnist"))

from data import Batch  # noqa: E402
from model import create_model  # noqa: E402
from optimizer import create_optimizer  # noqa: E402
from step import train_step  # noqa: E402
from train import create_state  # noqa: E402

GROUP = 8
EXAMPLES_A_DEVICE = 32
# The mesh axes over which the statistics are summed.
SYNCHRONIZED = {
    "all devices": ("group", "member"),
    f"groups of {GROUP}": ("member",),
    "none": None,
}
_SHAPE = re.compile(r"(f32|bf16|s32|u32|pred)\[([\d,]*)\]")
_BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


def compile_step(num_devices: int, axes: tuple[str, ...] | None) -> str:
    """Returns the compiled training step as text.

    Args:
      num_devices: a multiple of `GROUP`.
      axes: mesh axes over which statistics are summed; None sums over none.
    """
    devices = np.asarray(jax.devices("cpu")[:num_devices]).reshape(-1, GROUP)
    mesh = Mesh(devices, ("group", "member"), axis_types=(AxisType.Auto,) * 2)
    config = runpy.run_path(str(EXAMPLES.parent / "configs" / "default.py"))
    config = config["get_config"]()
    model = create_model(config, axes)
    optimizer = create_optimizer(config, num_steps=1)
    rows = num_devices * EXAMPLES_A_DEVICE
    images = jax.ShapeDtypeStruct((rows, 28, 28, 1), np.uint8)
    state = jax.eval_shape(partial(create_state, model, optimizer, 0), images)
    batch = Batch(
        images=images,
        labels=jax.ShapeDtypeStruct((rows,), np.int32),
        mask=jax.ShapeDtypeStruct((rows,), bool),
        rows=jax.ShapeDtypeStruct((rows,), np.int32),
    )
    # Statistics lie stacked along the axes over which they may differ.
    own = tuple(name for name in mesh.axis_names if name not in (axes or ()))
    copies = math.prod(mesh.shape[name] for name in own)
    stacked = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((copies, *x.shape), x.dtype), state.batch_stats
    )
    specs = state.replace(step=P(), params=P(), opt_state=P(), batch_stats=P(own))

    def step(state, batch):
        statistics = jax.tree.map(lambda x: x[0], state.batch_stats)
        state = state.replace(batch_stats=statistics)
        state, sums = train_step(state, batch, axis_name=mesh.axis_names, seed=0)
        statistics = jax.tree.map(lambda x: x[None], state.batch_stats)
        return state.replace(batch_stats=statistics), sums

    sharded = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(specs, P(mesh.axis_names)),
        out_specs=(specs, P()),
    )
    lowered = jax.jit(sharded).lower(state.replace(batch_stats=stacked), batch)
    return lowered.compile().as_text()


def all_reduces(text: str) -> list[int]:
    """Returns the bytes of each all-reduce of a compiled program."""
    return [
        sum(
            _BYTES[kind] * math.prod(map(int, filter(None, sizes.split(","))))
            for kind, sizes in _SHAPE.findall(match[1])
        )
        for match in re.finditer(r"= (.*?) all-reduce(?:-start)?\(", text)
    ]


def rows(devices: list[int]) -> Iterator[Row]:
    """Compiles; yields a row per number of devices and kind of synchronization."""
    for num_devices in devices:
        alone = all_reduces(compile_step(num_devices, None))
        for name, axes in SYNCHRONIZED.items():
            found = all_reduces(compile_step(num_devices, axes)) if axes else alone
            added = sum(found) - sum(alone)
            size = {"none": 1, "all devices": num_devices}.get(name, GROUP)
            yield {
                "devices": str(num_devices),
                "synchronized": name,
                "all-reduces": str(len(found)),
                "bytes": f"{sum(found):,}",
                "of normalization": str(len(found) - len(alone)),
                "its bytes": f"{added:,}",
                "fraction": f"{added / sum(found):.3%}",
                "messages in a ring": str(2 * (size - 1)),
            }


def main() -> None:
    """Parses the flags, counts, and prints the table."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--devices",
        action="append",
        type=at_least(1),
        help=f"a multiple of {GROUP}; repeats",
    )
    devices = parser.parse_args().devices or [8, 64, 512]
    if any(number < GROUP or number % GROUP for number in devices):
        parser.error(f"--devices must be multiples of {GROUP}")
    jax.config.update("jax_num_cpu_devices", max(devices))
    show("All-reduces of a training step", rows(devices))


if __name__ == "__main__":
    main()
