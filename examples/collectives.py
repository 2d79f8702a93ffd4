"""Counts the all-reduces of a batch norm layer's compiled step on several devices.

python examples/collectives.py
"""

import re
from collections.abc import Iterator
from types import ModuleType

import jax
import jax.numpy as jnp
from benchmark import Row, linen, show
from command_line import Parser
from compilers.programs import LIBRARIES
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

REPLICAS = 8


def count(library: ModuleType, mode: str, *, backward: bool) -> int:
    """Returns the all-reduces of batch norm's compiled step on (simulated) devices."""
    devices = jax.devices("cpu")[:REPLICAS]
    mesh = jax.make_mesh((REPLICAS,), ("data",), (AxisType.Auto,), devices=devices)
    x = jax.device_put(
        jnp.ones((4 * REPLICAS, 8, 8, 16)), NamedSharding(mesh, P("data"))
    )
    norm = linen(library, "batch", x, axis_name=None if mode == "jit" else "data")
    step = norm.forward_and_backward if backward else norm.apply
    arrays = [x, x] if backward else [x]
    if mode != "jit":
        check_vma = mode == "shard_map"
        # With check_vma=True, shard_map sums the gradients of parameters by itself.
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


def rows() -> Iterator[Row]:
    """Counts all-reduces; yields a row per library and mode."""
    for mode in ("jit", "shard_map", "shard_map, check_vma=False"):
        for name, library in LIBRARIES.items():
            yield {
                "mode": mode,
                "library": name,
                "forward": str(count(library, mode, backward=False)),
                "and backward": str(count(library, mode, backward=True)),
            }


def main() -> None:
    """Parses the command line, counts, and prints the table."""
    Parser(__doc__).parse_args()
    jax.config.update("jax_num_cpu_devices", REPLICAS)
    show(f"All-reduces of batch norm's compiled step on {REPLICAS} devices", rows())


if __name__ == "__main__":
    main()
