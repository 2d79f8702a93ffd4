"""The normalizers that `config.norm` can name."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxnorm
import jaxnorm.linen as jl


class NormOptions(NamedTuple):
    """The options for normalization in the configuration.

    Attributes:
      axis_name: the device axis or axes over which statistics are summed, or None.
      momentum: the weight of the old running average, in [0, 1], or a schedule of it.
      dtype: the dtype of the output; statistics stay float32.
      num_groups: number of groups of features.
      virtual_batch_size: examples of a ghost batch, over all devices of `axis_name`.
      num_steps: steps of the whole run, at least 1.
    """

    axis_name: str | tuple[str, ...] | None
    momentum: float | Callable[[jax.Array], jax.Array]
    dtype: jnp.dtype
    num_groups: int
    virtual_batch_size: int
    num_steps: int


# Called with (x, mask=...); mask is False for padding.
Normalize = Callable[..., jax.Array]
# Called with (options, train), inside the module that owns the new normalizer.
Make = Callable[[NormOptions, bool], Normalize]


def _over_batch(module: type[nn.Module], **more) -> Make:
    """Makes a normalizer with batch statistics, which needs the mask of padding."""

    def make(options: NormOptions, train: bool) -> Normalize:
        return module(
            use_running_average=not train,
            momentum=options.momentum,
            axis_name=options.axis_name,
            dtype=options.dtype,
            **more,
        )

    return make


def _by_example(module: type[nn.Module], **more) -> Make:
    """Makes a per-example normalizer, which needs no mask of padding."""

    def make(options: NormOptions, train: bool) -> Normalize:
        norm = module(dtype=options.dtype, **more)
        return lambda x, mask: norm(x)

    return make


def _with_num_groups(module: type[nn.Module]) -> Make:
    def make(options: NormOptions, train: bool) -> Normalize:
        return _by_example(module, num_groups=options.num_groups)(options, train)

    return make


def _seed_norm(options: NormOptions, train: bool) -> Normalize:
    # With one head, the sum over the non-negative features of a relu soon drives the
    # tanh to -1, and so the output to 0.
    return _by_example(jl.SeedNorm, num_heads=options.num_groups)(options, train)


def _ghost(options: NormOptions, train: bool) -> Normalize:
    size = options.virtual_batch_size
    return _over_batch(jl.GhostBatchNorm, virtual_batch_size=size)(options, train)


def renorm_bounds(num_steps: int) -> jaxnorm.RenormBounds:
    """Returns the schedule of the paper, rescaled from 160,000 steps to this run.

    Args:
      num_steps: steps of the whole run.
    """
    return jaxnorm.warmup_renorm(
        start=num_steps // 32,
        r_end=num_steps // 4 + 1,
        d_end=num_steps * 5 // 32 + 1,
    )


def _renorm(options: NormOptions, train: bool) -> Normalize:
    bounds = renorm_bounds(options.num_steps)._asdict()
    return _over_batch(jl.BatchRenorm, **bounds)(options, train)


class Gain(nn.Module):
    """Multiplies by a learned number.

    Spectral norm sets a layer's largest singular value to 1. The others, which do most
    of the work, are far smaller, and a relu removes half of the result. A gain of 2
    compensates for both, as in the paper (Miyato et al., 2018, appendix E).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` times the gain."""
        gain = self.param("gain", nn.initializers.constant(2.0), ())
        return x * gain.astype(x.dtype)


def _gain(options: NormOptions, train: bool) -> Normalize:
    gain = Gain()
    return lambda x, mask: gain(x)


def _identity(options: NormOptions, train: bool) -> Normalize:
    return lambda x, mask: x


def _unwrapped(layer: nn.Module, train: bool) -> nn.Module:
    return layer


def _weight_norm(layer: nn.Module, train: bool) -> nn.Module:
    return jl.WeightNorm(layer, initialization="preserve")


def _spectral_norm(layer: nn.Module, train: bool) -> Callable[[jax.Array], jax.Array]:
    wrapped = jl.SpectralNorm(layer, warm_up_steps=15)
    return lambda x: wrapped(x, update_stats=train)


def _standardized(layer: nn.Module, train: bool) -> nn.Module:
    return jl.WeightStandardization(layer)


class Norm(NamedTuple):
    """A choice of `config.norm`.

    Attributes:
      text: a short description.
      make: makes the normalizer of a hidden layer's activations.
      make_dense: makes the normalizer of a dense layer, if it is a different one. There
        each example has one value of each feature, without variance, so instance norm
        would always return its bias. Layer norm replaces it, and batch norm replaces
        the mixtures of batch and instance norm.
      wrap: `wrap(layer, train)` returns the layer with normalized weights.
      activates: whether the normalizer includes the activation.
    """

    text: str
    make: Make
    make_dense: Make | None = None
    wrap: Callable[[nn.Module, bool], Callable[[jax.Array], jax.Array]] = _unwrapped
    activates: bool = False


_BATCH = _over_batch(jl.BatchNorm)
_LAYER = _by_example(jl.LayerNorm)
_GROUP = _with_num_groups(jl.GroupNorm)
_MEAN_ONLY = _over_batch(jl.MeanOnlyBatchNorm)

NORMS: dict[str, Norm] = {
    "none": Norm("no normalization", _identity),
    # Batch statistics.
    "batch": Norm("batch norm", _BATCH),
    "renorm": Norm("batch renorm, with the paper's schedule in this run", _renorm),
    "ghost": Norm("batch norm of every virtual_batch_size examples", _ghost),
    "virtual": Norm(
        "virtual batch norm, with reference_size training examples",
        _by_example(jl.VirtualBatchNorm),
    ),
    "adaptive": Norm(
        "batch norm, corrected for unusual examples",
        _over_batch(jl.AdaptiveBatchNorm),
    ),
    "mean_only": Norm("mean-only batch norm", _MEAN_ONLY),
    "evo_b0": Norm(
        "EvoNorm B0, by batch and example, instead of the relu",
        _over_batch(jl.EvoNormB0),
        activates=True,
    ),
    # Per-example statistics.
    "layer": Norm("layer norm, over the features of a position", _LAYER),
    "rms": Norm("layer norm without the mean", _by_example(jl.RMSNorm)),
    "seed": Norm(
        "RMS norm whose scale depends on the input, num_groups heads", _seed_norm
    ),
    "group": Norm("group norm, in num_groups groups", _GROUP),
    "instance": Norm("instance norm", _by_example(jl.InstanceNorm), _LAYER),
    "filter_response": Norm(
        "filter response norm, with a threshold instead of the relu",
        _by_example(jl.FilterResponseNorm),
        # A dense layer has one value per feature, which would be divided by itself. The
        # paper learns epsilon for such layers, starting at 1e-4, which leaves only the
        # sign and no gradient; 1 is about the size of the activations.
        _by_example(
            jl.FilterResponseNorm,
            use_learned_epsilon=True,
            learned_epsilon_init=nn.initializers.ones,
        ),
        activates=True,
    ),
    "global_response": Norm("global response norm", _by_example(jl.GlobalResponseNorm)),
    "dynamic_tanh": Norm("dynamic tanh", _by_example(jl.DynamicTanh)),
    "dynamic_erf": Norm("dynamic erf", _by_example(jl.DynamicErf)),
    "evo_s0": Norm(
        "EvoNorm S0, in num_groups groups, instead of the relu",
        _with_num_groups(jl.EvoNormS0),
        activates=True,
    ),
    # Mixtures.
    "switchable": Norm(
        "a learned mixture of instance, layer and batch norm",
        _over_batch(jl.SwitchableNorm),
        _BATCH,
    ),
    "batch_instance": Norm(
        "a learned mixture of batch and instance norm",
        _over_batch(jl.BatchInstanceNorm),
        _BATCH,
    ),
    "instance_batch": Norm(
        "instance norm of half of the features, batch norm of half",
        _over_batch(jl.InstanceBatchNorm),
        _BATCH,
    ),
    # Weight normalizers.
    "weight": Norm(
        "weight norm with mean-only batch norm", _MEAN_ONLY, wrap=_weight_norm
    ),
    "weight_standardization": Norm(
        "weight standardization with group norm", _GROUP, wrap=_standardized
    ),
    "spectral": Norm(
        "spectral norm of the weights, times a learned gain",
        _gain,
        wrap=_spectral_norm,
    ),
}
