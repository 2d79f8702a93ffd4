"""What is compiled: normalizers alone, and networks that have them."""

import dataclasses
import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from models.convolutions import ConvolutionChain
from models.resnet import ResNet50
from models.transformer import PreNormMLP
from models.unet import UNet

import jaxnorm

Tree = Any
Norm = Callable[[], nn.Module]
# (variables, x) -> output and new statistics
Apply = Callable[[Tree, jax.Array], tuple[jax.Array, Tree]]
OPTIONS: dict[str, dict[str, Any]] = {
    "BatchNorm": {"use_running_average": False},
    "GroupNorm": {"num_groups": 32},
}


class ShapeError(Exception):
    """A program does not take an input of some shape."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A program with one kind of normalizer.

    Attributes:
      norm: the name of the class.
      network: makes the network of what makes a normalizer; the normalizer itself where
        it is measured alone.
      shapes: of inputs that are measured if no other is asked for.
      learns: a step ends with new parameters, rather than with the gradients of
        parameters and of the input, which go to the layers before.
    """

    norm: str
    network: Callable[[Norm], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    learns: bool = False

    def build(self, library: ModuleType, dtype: str) -> nn.Module:
        """Returns the network with the normalizers of a library."""
        options = OPTIONS.get(self.norm, {})
        norm = functools.partial(getattr(library, self.norm), dtype=dtype, **options)
        return self.network(norm)


def _alone(norm: Norm) -> nn.Module:
    return norm()


IMAGES = (128, 28, 28, 128), (64, 14, 14, 1024)
ROWS = (8, 2048, 4096), (16, 1024, 1024)
PROGRAMS = {
    "batch": Program("BatchNorm", _alone, IMAGES),
    "layer": Program("LayerNorm", _alone, ROWS),
    "rms": Program("RMSNorm", _alone, ROWS),
    "group": Program("GroupNorm", _alone, ((32, 64, 64, 256),)),
    "instance": Program("InstanceNorm", _alone, ((32, 64, 64, 128),)),
    "chain": Program("BatchNorm", ConvolutionChain, ((64, 28, 28, 128),)),
    "transformer-layer": Program("LayerNorm", PreNormMLP, ((8, 4096, 4096),)),
    "transformer-rms": Program("RMSNorm", PreNormMLP, ((8, 4096, 4096),)),
    "unet": Program("GroupNorm", UNet, ((16, 64, 64, 128),)),
    "resnet50": Program("BatchNorm", ResNet50, ((64, 224, 224, 3),), learns=True),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """A function that can be compiled, and its abstract arguments.

    Attributes:
      function: `(variables, *batch) -> results`, under `jax.jit`.
      variables: the same on all devices.
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
) -> Step:
    """Returns a step of a program.

    Args:
      name: of `PROGRAMS`.
      kind: "forward", in training mode, or "training", with the backward pass.
      library: `jaxnorm.linen` or `flax.linen`.
      dtype: of activations and of what is computed; parameters are float32.
      shape: of the input.
      policy: the network is rematerialized under `jaxnorm.checkpoint_policy`.

    Raises:
      ShapeError: the program does not take an input of this shape.
    """
    program = PROGRAMS[name]
    network = program.build(library, jnp.dtype(dtype))
    x = jax.ShapeDtypeStruct(shape, dtype)
    apply = functools.partial(_apply, network)
    if policy:
        apply = jax.checkpoint(apply, policy=jaxnorm.checkpoint_policy)
    if kind == "forward":
        function, batch = jax.jit(apply), (x,)
    elif program.learns:
        function = jax.jit(functools.partial(_learn, apply), donate_argnums=0)
        batch = x, jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    else:
        function, batch = jax.jit(functools.partial(_differentiate, apply)), (x, x)
    try:
        if len(shape) != len(program.shapes[0]) and program.network is not _alone:
            raise ValueError(f"it must have {len(program.shapes[0])} axes")
        variables = jax.eval_shape(network.init, jax.random.key(0), x)
        jax.eval_shape(function, variables, *batch)
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ShapeError(
            f"{name} does not take an input of shape {shape}: {reason}"
        ) from error
    return Step(function, variables, batch)


def _apply(network: nn.Module, variables: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
    """Returns the output and the new statistics."""
    return network.apply(variables, x, mutable=["batch_stats"])


def _differentiate(
    apply: Apply, variables: Tree, x: jax.Array, cotangent: jax.Array
) -> tuple[jax.Array, Tree, Tree]:
    """Returns the output, the new statistics, the gradients of parameters and x."""

    def forward(params: Tree, x: jax.Array) -> tuple[jax.Array, Tree]:
        return apply({**variables, "params": params}, x)

    y, backward, stats = jax.vjp(forward, variables["params"], x, has_aux=True)
    # The layers between are not here, but the cotangent comes after the output all the
    # same, so that XLA must not fuse the forward pass with the backward one.
    y, cotangent = jax.lax.optimization_barrier((y, cotangent))
    return y, stats, backward(cotangent)


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
