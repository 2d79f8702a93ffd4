"""One entry for each module of `jaxnorm.linen`, so that all pass the same tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import jaxnorm
import jaxnorm.linen as modules
from support import family
from support.drawing import place
from support.family_entries import (
    WIDTH,
    Entry,
    of_batch,
    of_function,
    of_weight,
    per_feature,
)
from support.tiers import matrix

AFFINE = per_feature("params/scale", "params/bias")
STATS = per_feature("batch_stats/mean", "batch_stats/var")
STEPWISE = per_feature(*STATS, shape=(family.STEPS, WIDTH))
KERNEL = "layer_instance/kernel"


def by_weight_norm(kernel, variables):
    scale = variables["params"][f"{KERNEL}/scale"]
    return jaxnorm.weight_norm(kernel, scale, epsilon=1e-12), {}


def by_standardization(kernel, variables):
    del variables
    return jaxnorm.standardize_weight(kernel), {}


def by_spectral_norm(kernel, variables):
    u = variables["batch_stats"][f"{KERNEL}/u"][0]
    normalized, u, sigma = jaxnorm.spectral_norm(kernel, u)
    return normalized, {
        "batch_stats": {f"{KERNEL}/u": u[None], f"{KERNEL}/sigma": sigma}
    }


def collect_reference(variables, x, mask):
    y, moments, size = jaxnorm.collect_reference(x, **variables["params"], mask=mask)
    return y, {"reference": moments._asdict() | {"size": size}}


class OneWay(modules.ReversibleInstanceNorm):
    """Without the way back, which test_nnx_reversible.py takes."""

    def __call__(self, x, *, mask=None):
        return super().__call__(x, mask=mask)[0]


class FromTheStart(modules.CausalGroupNorm):
    """Without moments, which test_nnx_causal.py passes on."""

    def __call__(self, x, *, mask=None):
        return super().__call__(x, mask=mask)[0]


class GatedByConstant(modules.GatedRMSNorm):
    """With the gate of the functions' table."""

    def __call__(self, x, *, mask=None):
        return super().__call__(x, family.gate_of(x), mask=mask)


class OnSegments:
    """Mixed into a module: with the segments of the functions' table."""

    def __call__(self, x, *, mask=None):
        return super().__call__(x, **family.segments_of(x), mask=mask)


class GraphNorm(OnSegments, modules.GraphNorm):
    pass


class SegmentLayerNorm(OnSegments, modules.SegmentLayerNorm):
    pass


class SegmentRMSNorm(OnSegments, modules.SegmentRMSNorm):
    pass


def build_lstm(train, **options):
    cell = modules.BatchNormLSTMCell(
        WIDTH, max_steps=5, use_running_average=not train, **options
    )
    if train:
        return nn.RNN(cell, variable_carry="batch_stats")
    return nn.RNN(cell, variable_broadcast=("params", "batch_stats"))


def lstm_tree():
    tree = {
        "params/cell/norm_c/bias": "float32 (4,)",
        "params/cell/input/kernel": "float32 (4, 16)",
        "params/cell/recurrent/kernel": "float32 (4, 16)",
        "params/cell/bias": "float32 (16,)",
    }
    for norm, width in {"norm_x": 16, "norm_h": 16, "norm_c": 4}.items():
        tree[f"params/cell/{norm}/scale"] = f"float32 ({width},)"
        for name in ("mean", "var"):
            tree[f"batch_stats/cell/{norm}/{name}"] = f"float32 (5, {width})"
    return tree


TABLE = {
    "BatchNorm": of_batch(modules.BatchNorm, "batch_norm", AFFINE | STATS),
    "BatchRenorm": of_batch(
        modules.BatchRenorm,
        "batch_renorm",
        AFFINE
        | per_feature("batch_stats/mean", "batch_stats/std")
        | {"batch_stats/count": "float32 ()"},
        restore=jaxnorm.RenormStats,
        settings={"r_max": 1.1, "d_max": 0.2},
    ),
    "GhostBatchNorm": of_batch(
        modules.GhostBatchNorm,
        "ghost_batch_norm",
        AFFINE | STATS,
        settings={"virtual_batch_size": 2},
    ),
    "AdaptiveBatchNorm": of_batch(
        modules.AdaptiveBatchNorm,
        "adaptive_batch_norm",
        AFFINE | STATS,
        settings={"strength": 0.5},
    ),
    "MeanOnlyBatchNorm": of_batch(
        modules.MeanOnlyBatchNorm,
        "mean_only_batch_norm",
        per_feature("params/bias", "batch_stats/mean"),
        restore=jaxnorm.MeanStats,
    ),
    "RecurrentBatchNorm": of_batch(
        modules.RecurrentBatchNorm,
        "recurrent_batch_norm",
        AFFINE | STEPWISE,
        settings={"max_steps": family.STEPS},
        extra=(1,),
    ),
    "DomainBatchNorm": of_batch(
        modules.DomainBatchNorm,
        "recurrent_batch_norm",
        AFFINE | STEPWISE,
        settings={"num_domains": family.STEPS},
        extra=(1,),
    ),
    "EvoNormB0": of_batch(
        modules.EvoNormB0,
        "evo_norm_b0",
        AFFINE | per_feature("params/v", "batch_stats/var"),
        restore=jaxnorm.VarStats,
    ),
    "SwitchableNorm": of_batch(
        modules.SwitchableNorm,
        "switchable_norm",
        AFFINE
        | STATS
        | per_feature("params/mean_logits", "params/var_logits", shape=(3,)),
    ),
    "BatchInstanceNorm": of_batch(
        modules.BatchInstanceNorm,
        "batch_instance_norm",
        AFFINE | STATS | per_feature("params/gate"),
    ),
    "InstanceBatchNorm": of_batch(
        modules.InstanceBatchNorm,
        "instance_batch_norm",
        AFFINE | per_feature(*STATS, shape=(WIDTH - 1,)),
        settings={"instance_features": 1},
    ),
    "RunningNorm": of_function(
        modules.RunningNorm,
        "running_norm",
        per_feature(
            *(f"batch_stats/{name}" for name in jaxnorm.RunningMoments._fields)
        ),
        settings={"momentum": 0.99},
        restore=jaxnorm.RunningMoments,
        synchronizes=True,
        collect=lambda state: {"batch_stats": state._asdict()},
    ),
    "LayerNorm": of_function(
        modules.LayerNorm, "layer_norm", AFFINE, synchronizes=True
    ),
    "RMSNorm": of_function(
        modules.RMSNorm,
        "rms_norm",
        per_feature("params/scale"),
        settings={"scale_offset": 1.0},
        synchronizes=True,
    ),
    "GatedRMSNorm": of_function(
        GatedByConstant,
        "gated_rms_norm",
        per_feature("params/scale"),
        settings={"num_groups": 2, "reduction_axes": (1, 2)},
        synchronizes=True,
        integers=False,
    ),
    "SeedNorm": of_function(
        modules.SeedNorm,
        "seed_norm",
        per_feature("params/alpha", "params/beta", "params/scale"),
        settings={"reduction_axes": (1, 2)},
        synchronizes=True,
        integers=False,
    ),
    "GroupNorm": of_function(
        modules.GroupNorm,
        "group_norm",
        AFFINE,
        settings={"num_groups": 2},
        synchronizes=True,
    ),
    "CausalGroupNorm": of_function(
        FromTheStart,
        "causal_group_norm",
        AFFINE,
        synchronizes=True,
        integers=False,
    ),
    "InstanceNorm": of_function(
        modules.InstanceNorm, "instance_norm", AFFINE, synchronizes=True
    ),
    "GraphNorm": of_function(
        GraphNorm,
        "graph_norm",
        AFFINE | per_feature("params/mean_scale"),
        synchronizes=True,
        integers=False,
    ),
    "SegmentLayerNorm": of_function(
        SegmentLayerNorm,
        "segment_layer_norm",
        AFFINE,
        synchronizes=True,
        integers=False,
    ),
    "SegmentRMSNorm": of_function(
        SegmentRMSNorm,
        "segment_rms_norm",
        per_feature("params/scale"),
        settings={"scale_offset": 1.0},
        synchronizes=True,
        integers=False,
    ),
    "ReversibleInstanceNorm": of_function(
        OneWay, "reversible_instance_norm", AFFINE, synchronizes=True
    ),
    "FilterResponseNorm": of_function(
        modules.FilterResponseNorm,
        "filter_response_norm",
        AFFINE | per_feature("params/threshold", "params/learned_epsilon"),
        settings={"use_learned_epsilon": True},
        integers=False,
    ),
    "GlobalResponseNorm": of_function(
        modules.GlobalResponseNorm, "global_response_norm", AFFINE, integers=False
    ),
    "DynamicTanh": of_function(
        modules.DynamicTanh,
        "dynamic_tanh",
        AFFINE | {"params/alpha": "float32 ()"},
        masked=False,
        integers=False,
    ),
    "DynamicErf": of_function(
        modules.DynamicErf,
        "dynamic_erf",
        AFFINE | {"params/alpha": "float32 ()", "params/shift": "float32 ()"},
        masked=False,
        integers=False,
    ),
    "UnitNorm": of_function(
        modules.UnitNorm,
        "unit_norm",
        {},
        masked=False,
        synchronizes=True,
        integers=False,
    ),
    "EvoNormS0": of_function(
        modules.EvoNormS0,
        "evo_norm_s0",
        AFFINE | per_feature("params/v"),
        settings={"num_groups": 2},
        integers=False,
    ),
    "VirtualBatchNorm": Entry(
        lambda train, **options: modules.VirtualBatchNorm(**options),
        AFFINE
        | per_feature("reference/count", "reference/mean", "reference/var")
        | {"reference/size": "float32 ()"},
        collect_reference,
    ),
    "WeightNorm": of_weight(
        modules.WeightNorm, per_feature(f"params/{KERNEL}/scale"), by_weight_norm
    ),
    "WeightStandardization": of_weight(
        modules.WeightStandardization, {}, by_standardization
    ),
    "SpectralNorm": of_weight(
        modules.SpectralNorm,
        per_feature(f"batch_stats/{KERNEL}/u", shape=(1, WIDTH))
        | {f"batch_stats/{KERNEL}/sigma": "float32 ()"},
        by_spectral_norm,
        updates=True,
    ),
    "BatchNormLSTMCell": Entry(
        build_lstm,
        lstm_tree(),
        masked=False,
        synchronizes=True,
        counts=True,
        integers=False,
        rounds_once=False,
    ),
}


@functools.cache
def shapes(name, shape):
    """Those of the variables of a module."""
    entry = TABLE[name]
    init = functools.partial(entry.build(True).init, **entry.keywords(None, True))
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape), *entry.extra)


def draw_variables(name, x, seed=0):
    """Those of the function's table, or else positive numbers in all of them."""
    entry = TABLE[name]
    if entry.function:
        _, params, state = family.draw_arguments(family.TABLE[entry.function], seed)
        return {"params": params} | entry.collect(state)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: place(rng.uniform(0.3, 1.3, leaf.shape), leaf.dtype),
        shapes(name, x.shape),
    )


# Often one of each kind.
all_with_a_function = pytest.mark.parametrize(
    "name",
    matrix(
        (n for n in TABLE if TABLE[n].function),
        often=(
            *("BatchNorm", "GhostBatchNorm", "EvoNormB0"),
            *("LayerNorm", "SwitchableNorm"),
        ),
    ),
)
