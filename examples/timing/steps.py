"""Callable training steps of the programs in `compilers/programs.py`."""

import dataclasses
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from compilers.programs import PROGRAMS
from compilers.steps import make_step


@dataclasses.dataclass(frozen=True)
class Timed:
    """A step with its arguments.

    Attributes:
      run: runs a step; its results have `block_until_ready`.
      memory: returns the peak memory in bytes, including arguments and results, or None
        if unknown; to be called after a step.
    """

    run: Callable[[], Any]
    memory: Callable[[], int | None]


def jax_step(
    name: str, library: ModuleType, dtype: str, shape: tuple[int, ...], policy: bool
) -> Timed:
    """Returns a compiled training step.

    Args:
      name: a name in `PROGRAMS`.
      library: `jaxnorm.linen` or `flax.linen`.
      dtype: dtype of activations.
      shape: shape of the input.
      policy: whether to rematerialize under `jaxnorm.checkpoint_policy`.

    Raises:
      ShapeError: the program does not accept an input of this shape.
    """
    step = make_step(name, "training", library, dtype, shape, policy)
    compiled = step.function.lower(step.variables, *step.batch).compile()
    program = PROGRAMS[name]
    network = program.build(library, jnp.dtype(dtype))
    batch = [_draw(x, seed) for seed, x in enumerate(step.batch)]
    inputs = batch[: 1 + len(program.inputs(step.batch[0]))]
    state = jax.jit(network.init)(jax.random.key(0), *inputs)

    def run() -> Any:
        nonlocal state
        results = compiled(state, *batch)
        if program.learns:  # the step returns new variables
            _, state = results
        return results

    def memory() -> int | None:
        needed = compiled.memory_analysis()
        if needed is None:
            return None
        results = needed.output_size_in_bytes - needed.alias_size_in_bytes
        return needed.argument_size_in_bytes + results + needed.temp_size_in_bytes

    return Timed(run, memory)


def torch_steps(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, Timed]:
    """Returns the steps of PyTorch, eager and compiled, if it can be compared.

    It returns none if PyTorch is not installed or lacks the program, or if JAX has a
    GPU and PyTorch has none.
    """
    if not importlib.util.find_spec("torch"):
        return {}
    import torch

    from timing.torch_networks import NETWORKS, make_torch_step

    gpu = jax.default_backend() == "gpu"
    if name not in NETWORKS or (gpu and not torch.cuda.is_available()):
        return {}
    device = "cuda" if gpu else "cpu"
    return {
        label: Timed(*make_torch_step(name, dtype, shape, device, compiled=compiled))
        for label, compiled in (("torch", False), ("torch.compile", True))
    }


def _draw(x: jax.ShapeDtypeStruct, seed: int) -> jax.Array:
    """Returns random normal numbers; integers below 256 for labels and ids."""
    key = jax.random.key(seed)
    if jnp.issubdtype(x.dtype, jnp.integer):
        return jax.random.randint(key, x.shape, 0, 256, x.dtype)
    return jax.random.normal(key, x.shape, x.dtype)
