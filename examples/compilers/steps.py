"""Compilable steps of programs, with their abstract arguments."""

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxnorm
from compilers.programs import PROGRAMS, Masked, alone

Tree = Any
# (variables, x, ...) -> output and new statistics
Apply = Callable[..., tuple[jax.Array, Tree]]


class ShapeError(Exception):
    """A program does not accept an input of the given shape."""


class BlockError(Exception):
    """A program has no blocks that can be rematerialized."""


@dataclasses.dataclass(frozen=True)
class Step:
    """A compilable function and its abstract arguments.

    Attributes:
      function: `(variables, *batch) -> results`, under `jax.jit`.
      variables: variables, the same on all devices.
      batch: arrays whose first axis is split over the devices.
    """

    function: Callable[..., Tree]
    variables: Tree
    batch: tuple[jax.ShapeDtypeStruct, ...]


def make_step(
    name: str,
    kind: str,
    library: ModuleType,
    dtype: str,
    shape: tuple[int, ...],
    policy: bool = False,
    blocks: bool = False,
) -> Step:
    """Returns a step of a program.

    Args:
      name: a name in `PROGRAMS`.
      kind: "forward", in training mode, or "training", with the backward pass.
      library: `jaxnorm.linen` or `flax.linen`.
      dtype: dtype of activations and computation; parameters are float32.
      shape: shape of the input.
      policy: whether to rematerialize under `jaxnorm.checkpoint_policy`.
      blocks: whether to rematerialize each block as well, under the same policy.

    Raises:
      ShapeError: the program does not accept an input of this shape.
      BlockError: its blocks cannot be rematerialized.
    """
    program = PROGRAMS[name]
    network = program.build(library, jnp.dtype(dtype))
    if blocks:
        if not hasattr(network, "block_policy"):
            raise BlockError(f"{name} has no blocks that can be rematerialized")
        network = network.clone(block_policy=jaxnorm.checkpoint_policy)
    x = jax.ShapeDtypeStruct(shape, dtype)
    inputs = x, *program.inputs(x)
    apply = functools.partial(_apply, network)
    if policy:
        apply = jax.checkpoint(apply, policy=jaxnorm.checkpoint_policy)
    if kind == "forward":
        function, batch = jax.jit(apply), inputs
    elif program.learns:
        function = jax.jit(functools.partial(_learn, apply), donate_argnums=0)
        batch = x, jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    else:
        function, batch = (
            jax.jit(functools.partial(_differentiate, apply)),
            (*inputs, x),
        )
    try:
        of_one_rank = program.network not in (alone, Masked)
        if of_one_rank and len(shape) != len(program.shapes[0]):
            raise ValueError(f"it must have {len(program.shapes[0])} axes")
        variables = jax.eval_shape(network.init, jax.random.key(0), *inputs)
        jax.eval_shape(function, variables, *batch)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ShapeError(
            f"{name} does not accept an input of shape {shape}: {reason}"
        ) from error
    return Step(function, variables, batch)


def _apply(
    network: nn.Module, variables: Tree, *inputs: jax.Array
) -> tuple[jax.Array, Tree]:
    """Returns the output and the new statistics."""
    return network.apply(variables, *inputs, mutable=["batch_stats"])


def _differentiate(
    apply: Apply, variables: Tree, *batch: jax.Array
) -> tuple[jax.Array, Tree, list[Tree]]:
    """Returns the output, the new statistics, the gradients of parameters and inputs.

    The last array of the batch is the cotangent of the output.
    """
    *inputs, cotangent = batch

    def forward(params: Tree, *inputs: jax.Array) -> tuple[jax.Array, Tree]:
        return apply({**variables, "params": params}, *inputs)

    y, backward, stats = jax.vjp(
        forward, variables.get("params", {}), *inputs, has_aux=True
    )
    # In a network, the cotangent depends on the output through other layers. So XLA
    # must not fuse the forward pass with the backward pass here.
    y, cotangent = jax.lax.optimization_barrier((y, cotangent))
    params, *gradients = backward(cotangent)
    of_numbers = [x for x in gradients if x.dtype != jax.dtypes.float0]
    return y, stats, [params, *of_numbers]


def _learn(
    apply: Apply, variables: Tree, images: jax.Array, labels: jax.Array
) -> tuple[jax.Array, Tree]:
    """Returns the loss, and the variables after a step of gradient descent."""

    def loss(params: Tree) -> tuple[jax.Array, Tree]:
        logits, updates = apply({**variables, "params": params}, images)
        log_probabilities = jax.nn.log_softmax(logits.astype(jnp.float32))
        chosen = jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)
        return -jnp.mean(chosen), updates

    params = variables["params"]
    (value, updates), gradients = jax.value_and_grad(loss, has_aux=True)(params)
    params = jax.tree.map(lambda p, gradient: p - 0.1 * gradient, params, gradients)
    return value, {**updates, "params": params}
