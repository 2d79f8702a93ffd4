"""The normalizers that `config.norm` can name."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxnorm
import jaxnorm.linen as jl


class NormOptions(NamedTuple):
    """What the configuration says about normalization; each normalizer takes its part.

    Attributes:
      axis_name: the device axis or axes over which statistics are summed, or None.
      momentum: the weight of the old running average, in [0, 1], or a schedule of it.
      dtype: the dtype of the output; statistics stay float32.
      num_groups: into how many groups features are cut.
      virtual_batch_size: examples of a ghost batch, over all devices of `axis_name`.
      num_steps: steps of the whole run, at least 1.
    """

    axis_name: str | tuple[str, ...] | None
    momentum: float | Callable[[jax.Array], jax.Array]
    dtype: jnp.dtype
    num_groups: int
    virtual_batch_size: int
    num_steps: int


# Called with (x, mask=...), where mask is False for the examples that are padding.
Normalize = Callable[..., jax.Array]
# Called with (options, train), within the module that owns what it makes.
Make = Callable[[NormOptions, bool], Normalize]


def _over_batch(module: type[nn.Module], **more) -> Make:
    """Makes what has statistics of the batch, which padding must not reach."""

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
    """Makes what sees every example for itself, so that padding does no harm."""

    def make(options: NormOptions, train: bool) -> Normalize:
        norm = module(dtype=options.dtype, **more)
        return lambda x, mask: norm(x)

    return make


def _with_num_groups(module: type[nn.Module]) -> Make:
    def make(options: NormOptions, train: bool) -> Normalize:
        return _by_example(module, num_groups=options.num_groups)(options, train)

    return make


def _seed_norm(options: NormOptions, train: bool) -> Normalize:
    # With one head the sum over all features of a relu, none of them negative, soon
    # leaves the tanh at -1, and so the layer at 0.
    return _by_example(jl.SeedNorm, num_heads=options.num_groups)(options, train)


def _ghost(options: NormOptions, train: bool) -> Normalize:
    size = options.virtual_batch_size
    return _over_batch(jl.GhostBatchNorm, virtual_batch_size=size)(options, train)


def renorm_bounds(num_steps: int) -> jaxnorm.RenormBounds:
    """Returns the paper's schedule, for about 160,000 steps, made as long as the run.

    Args:
      num_steps: of the whole run.
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

    Spectral norm leaves a layer's largest singular value at 1, and the others, which do
    most of the work, far below; a relu takes half of what is left. A gain of 2 makes up
    for both, as in the paper's reparametrization (Miyato et al., 2018, appendix E).
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
      text: a phrase about it.
      make: makes the normalizer of a hidden layer's activations.
      make_dense: the same for a dense layer, if it is another. There one example has
        one value of each feature: no variance, so that instance norm gives its bias
        whatever the input. Layer norm takes its place, and batch norm that of the
        mixtures of both.
      wrap: `wrap(layer, train)` is the layer with normalized weights.
      activates: whether the normalizer is the activation, too.
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
    # Statistics of the batch.
    "batch": Norm("batch norm", _BATCH),
    "renorm": Norm("batch renorm, with the paper's schedule in this run", _renorm),
    "ghost": Norm("batch norm of every virtual_batch_size examples", _ghost),
    "virtual": Norm(
        "virtual batch norm, about reference_size training examples",
        _by_example(jl.VirtualBatchNorm),
    ),
    "adaptive": Norm(
        "batch norm, corrected where an example is far off",
        _over_batch(jl.AdaptiveBatchNorm),
    ),
    "mean_only": Norm("mean-only batch norm", _MEAN_ONLY),
    "evo_b0": Norm(
        "EvoNorm B0, by batch and example, in place of the relu",
        _over_batch(jl.EvoNormB0),
        activates=True,
    ),
    # Of each example.
    "layer": Norm("layer norm, over the features of a position", _LAYER),
    "rms": Norm("layer norm without the mean", _by_example(jl.RMSNorm)),
    "seed": Norm(
        "RMS norm whose scale follows its input, num_groups heads", _seed_norm
    ),
    "group": Norm("group norm, in num_groups groups", _GROUP),
    "instance": Norm("instance norm", _by_example(jl.InstanceNorm), _LAYER),
    "filter_response": Norm(
        "filter response norm, its threshold in place of the relu",
        _by_example(jl.FilterResponseNorm),
        # There it divides a value by itself. The epsilon that its paper learns for such
        # layers starts at 1e-4, which makes the sign of it, and lets no gradient pass;
        # 1 is about the size of the activations.
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
        "EvoNorm S0, in num_groups groups, in place of the relu",
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
    # Of weights.
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
