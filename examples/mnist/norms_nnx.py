"""The normalizers of `norms.py`, which describes them, as NNX modules."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from norms import NormOptions, renorm_bounds

import jaxnorm.nnx as jn

# Called with (options, number of features, rngs); None means no normalizer.
Make = Callable[[NormOptions, int, nnx.Rngs], nnx.Module | None]


def _over_batch(module: type[nnx.Module]) -> Make:
    def make(options: NormOptions, features: int, rngs: nnx.Rngs, **more) -> nnx.Module:
        return module(
            features,
            momentum=options.momentum,
            axis_name=options.axis_name,
            dtype=options.dtype,
            rngs=rngs,
            **more,
        )

    return make


def _by_example(module: type[nnx.Module], **more) -> Make:
    def make(options: NormOptions, features: int, rngs: nnx.Rngs) -> nnx.Module:
        return module(features, dtype=options.dtype, rngs=rngs, **more)

    return make


def _with_num_groups(module: type[nnx.Module]) -> Make:
    def make(options: NormOptions, features: int, rngs: nnx.Rngs) -> nnx.Module:
        groups = options.num_groups
        return _by_example(module, num_groups=groups)(options, features, rngs)

    return make


def _seed_norm(options: NormOptions, features: int, rngs: nnx.Rngs) -> nnx.Module:
    heads = options.num_groups
    return _by_example(jn.SeedNorm, num_heads=heads)(options, features, rngs)


def _ghost(options: NormOptions, features: int, rngs: nnx.Rngs) -> nnx.Module:
    size = options.virtual_batch_size
    make = _over_batch(jn.GhostBatchNorm)
    return make(options, features, rngs, virtual_batch_size=size)


def _renorm(options: NormOptions, features: int, rngs: nnx.Rngs) -> nnx.Module:
    bounds = renorm_bounds(options.num_steps)._asdict()
    return _over_batch(jn.BatchRenorm)(options, features, rngs, **bounds)


class Gain(nnx.Module):
    """Multiplies by a learned number; see `norms.Gain`."""

    def __init__(self):
        self.gain = nnx.Param(jnp.full((), 2.0))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` times the gain."""
        return x * self.gain[...].astype(x.dtype)


def _unwrapped(layer: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
    return layer


def _weight_norm(layer: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
    return jn.WeightNorm(layer, initialization="preserve", rngs=rngs)


def _spectral_norm(layer: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
    return jn.SpectralNorm(layer, warm_up_steps=15, rngs=rngs)


def _standardized(layer: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
    return jn.WeightStandardization(layer, rngs=rngs)


class Norm(NamedTuple):
    """The NNX modules of a choice of `config.norm`.

    Attributes:
      make: makes the normalizer of a hidden layer's activations.
      make_dense: makes the normalizer of a dense layer, if it is a different one.
      masked: whether the normalizer takes the mask of padding.
      wrap: `wrap(layer, rngs)` returns the layer with normalized weights.
    """

    make: Make
    make_dense: Make | None = None
    masked: bool = False
    wrap: Callable[[nnx.Module, nnx.Rngs], nnx.Module] = _unwrapped


_BATCH = _over_batch(jn.BatchNorm)
_LAYER = _by_example(jn.LayerNorm)
_GROUP = _with_num_groups(jn.GroupNorm)
_MEAN_ONLY = _over_batch(jn.MeanOnlyBatchNorm)

NORMS: dict[str, Norm] = {
    "none": Norm(lambda options, features, rngs: None),
    "batch": Norm(_BATCH, masked=True),
    "renorm": Norm(_renorm, masked=True),
    "ghost": Norm(_ghost, masked=True),
    "virtual": Norm(_by_example(jn.VirtualBatchNorm)),
    "adaptive": Norm(_over_batch(jn.AdaptiveBatchNorm), masked=True),
    "mean_only": Norm(_MEAN_ONLY, masked=True),
    "evo_b0": Norm(_over_batch(jn.EvoNormB0), masked=True),
    "layer": Norm(_LAYER),
    "rms": Norm(_by_example(jn.RMSNorm)),
    "seed": Norm(_seed_norm),
    "group": Norm(_GROUP),
    "instance": Norm(_by_example(jn.InstanceNorm), _LAYER),
    "filter_response": Norm(
        _by_example(jn.FilterResponseNorm),
        _by_example(
            jn.FilterResponseNorm,
            use_learned_epsilon=True,
            learned_epsilon_init=nnx.initializers.ones,
        ),
    ),
    "global_response": Norm(_by_example(jn.GlobalResponseNorm)),
    "dynamic_tanh": Norm(_by_example(jn.DynamicTanh)),
    "dynamic_erf": Norm(_by_example(jn.DynamicErf)),
    "evo_s0": Norm(_with_num_groups(jn.EvoNormS0)),
    "switchable": Norm(_over_batch(jn.SwitchableNorm), _BATCH, masked=True),
    "batch_instance": Norm(_over_batch(jn.BatchInstanceNorm), _BATCH, masked=True),
    "instance_batch": Norm(_over_batch(jn.InstanceBatchNorm), _BATCH, masked=True),
    "weight": Norm(_MEAN_ONLY, masked=True, wrap=_weight_norm),
    "weight_standardization": Norm(_GROUP, wrap=_standardized),
    "spectral": Norm(lambda options, features, rngs: Gain(), wrap=_spectral_norm),
}
