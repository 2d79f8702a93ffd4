"""The programs to compile: single normalizers, and networks with normalizers."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
from flax import linen as nn
from models.convolutions import ConvolutionChain
from models.resnet import ResNet50
from models.transformer import PreNormMLP
from models.unet import UNet

import jaxnorm.linen

Norm = Callable[[], nn.Module]
LIBRARIES = {"jaxnorm": jaxnorm.linen, "flax.linen": flax.linen}


def _nothing(x: jax.ShapeDtypeStruct) -> tuple[jax.ShapeDtypeStruct, ...]:
    del x
    return ()


@dataclasses.dataclass(frozen=True)
class Program:
    """A program with one kind of normalizer.

    Attributes:
      norm: the name of the class.
      network: makes the network from a function that makes a normalizer; the normalizer
        itself if it is measured alone.
      shapes: default shapes of the input.
      learns: whether a step ends with new parameters. Otherwise it ends with the
        gradients of parameters and input, as for the preceding layers.
      options: options of the normalizer.
      inputs: other inputs of the network.
      parent: the name of the program of this library to compare with; None if
        `flax.linen` also has the class.
    """

    norm: str
    network: Callable[[Norm], nn.Module]
    shapes: tuple[tuple[int, ...], ...]
    learns: bool = False
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    inputs: Callable[[jax.ShapeDtypeStruct], tuple[jax.ShapeDtypeStruct, ...]] = (
        _nothing
    )
    parent: str | None = None

    def build(self, library: ModuleType, dtype: str) -> nn.Module:
        """Returns the network with the normalizers of a library."""
        make = getattr(library, self.norm)
        return self.network(functools.partial(make, dtype=dtype, **self.options))


def alone(norm: Norm) -> nn.Module:
    """Returns a normalizer."""
    return norm()


class WithoutRest(nn.Module):
    """A normalizer that returns more than its output; this module returns the output.

    Attributes:
      norm: returns a new normalizer.
    """

    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalizes x."""
        return self.norm()(x)[0]


class Masked(nn.Module):
    """A normalizer whose statistics are of the elements that a mask selects.

    Attributes:
      norm: returns a new normalizer.
    """

    norm: Norm

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Normalizes x, with a mask that broadcasts to its shape."""
        # Flax's group norm needs a mask of the full shape; XLA does not write it.
        return self.norm()(x, mask=jnp.broadcast_to(mask, x.shape))


class OfSegments(nn.Module):
    """A per-segment normalizer.

    Attributes:
      norm: returns a new normalizer.
      num_segments: upper bound of the segment ids.
    """

    norm: Norm
    num_segments: int = 256

    @nn.compact
    def __call__(self, x: jax.Array, segment_ids: jax.Array) -> jax.Array:
        """Normalizes x, of shape (..., C), with ids of shape (...)."""
        return self.norm()(x, segment_ids, self.num_segments)


def _gate(x: jax.ShapeDtypeStruct) -> tuple[jax.ShapeDtypeStruct, ...]:
    return (x,)


def _segment_ids(x: jax.ShapeDtypeStruct) -> tuple[jax.ShapeDtypeStruct, ...]:
    return (jax.ShapeDtypeStruct(x.shape[:-1], jnp.int32),)


def _positions(x: jax.ShapeDtypeStruct) -> tuple[jax.ShapeDtypeStruct, ...]:
    # A mask of positions of each example, such as all except padding.
    return (jax.ShapeDtypeStruct((*x.shape[:-1], 1), jnp.bool),)


def _features(x: jax.ShapeDtypeStruct) -> tuple[jax.ShapeDtypeStruct, ...]:
    # A mask of features of each example.
    between = (1,) * (len(x.shape) - 2)
    return (jax.ShapeDtypeStruct((x.shape[0], *between, x.shape[-1]), jnp.bool),)


IMAGES = (128, 28, 28, 128), (64, 14, 14, 1024)
ROWS = (8, 2048, 4096), (16, 1024, 1024)
TRAINING = {"use_running_average": False}
WHOLE = {"reduction_axes": (1, 2)}  # normalizes sequences, not their elements
_of_segments = functools.partial(
    Program, network=OfSegments, shapes=ROWS[:1], inputs=_segment_ids
)
_masked = functools.partial(Program, network=Masked, inputs=_positions)
PROGRAMS = {
    "batch": Program("BatchNorm", alone, IMAGES, options=TRAINING),
    "layer": Program("LayerNorm", alone, ROWS),
    "rms": Program("RMSNorm", alone, ROWS),
    "group": Program(
        "GroupNorm", alone, ((32, 64, 64, 256),), options={"num_groups": 32}
    ),
    "instance": Program("InstanceNorm", alone, ((32, 64, 64, 128),)),
    "chain": Program(
        "BatchNorm", ConvolutionChain, ((64, 28, 28, 128),), options=TRAINING
    ),
    "transformer-layer": Program("LayerNorm", PreNormMLP, ((8, 4096, 4096),)),
    "transformer-rms": Program("RMSNorm", PreNormMLP, ((8, 4096, 4096),)),
    "unet": Program(
        "GroupNorm", UNet, ((16, 64, 64, 128),), options={"num_groups": 32}
    ),
    "resnet50": Program(
        "BatchNorm", ResNet50, ((64, 224, 224, 3),), learns=True, options=TRAINING
    ),
    "layer-whole": Program("LayerNorm", alone, ROWS[:1], options=WHOLE),
    "rms-whole": Program("RMSNorm", alone, ROWS[:1], options=WHOLE),
    "batch-masked": _masked("BatchNorm", shapes=IMAGES, options=TRAINING),
    "layer-masked": _masked("LayerNorm", shapes=ROWS, inputs=_features),
    "group-masked": _masked(
        "GroupNorm", shapes=((32, 64, 64, 256),), options={"num_groups": 32}
    ),
    "instance-masked": _masked("InstanceNorm", shapes=((32, 64, 64, 128),)),
    "gated": Program("GatedRMSNorm", alone, ROWS[:1], inputs=_gate, parent="rms"),
    "gated-first": Program(
        *("GatedRMSNorm", alone, ROWS[:1]),
        options={"gate_first": True},
        inputs=_gate,
        parent="rms",
    ),
    "seed": Program("SeedNorm", alone, ROWS[:1], parent="rms"),
    "unit": Program("UnitNorm", alone, ROWS[:1], parent="rms"),
    "dynamic-tanh": Program("DynamicTanh", alone, ROWS[:1], parent="rms"),
    "dynamic-erf": Program("DynamicErf", alone, ROWS[:1], parent="dynamic-tanh"),
    "causal": Program("CausalGroupNorm", WithoutRest, ROWS[:1], parent="layer-whole"),
    "segment-layer": _of_segments("SegmentLayerNorm", parent="layer-whole"),
    "segment-rms": _of_segments("SegmentRMSNorm", parent="rms-whole"),
    "graph": _of_segments("GraphNorm", parent="instance"),
    "reversible": Program(
        "ReversibleInstanceNorm", WithoutRest, ROWS[:1], parent="instance"
    ),
    "running": Program(
        "RunningNorm", alone, IMAGES[:1], options=TRAINING, parent="batch"
    ),
}


def compared(name: str) -> dict[str, tuple[str, ModuleType]]:
    """Returns the programs to compare and the libraries of their normalizers.

    Args:
      name: a name in `PROGRAMS`.

    Returns:
      A dict from label to program name and library, ours first.
    """
    parent = PROGRAMS[name].parent
    if parent is None:
        return {label: (name, library) for label, library in LIBRARIES.items()}
    label, ours = next(iter(LIBRARIES.items()))
    return {label: (name, ours), f"{label} {parent}": (parent, ours)}
