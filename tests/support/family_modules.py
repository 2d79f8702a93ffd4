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
from support.family_entries import WIDTH, Entry, of_function, of_weight, per_feature
from support.tiers import matrix

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


INSTEAD = {"ReversibleInstanceNorm": OneWay, "CausalGroupNorm": FromTheStart}


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
    name: of_function(INSTEAD.get(name, getattr(modules, name)), function, layer)
    for function, entry in family.TABLE.items()
    for name, layer in entry.layers.items()
} | {
    "VirtualBatchNorm": Entry(
        lambda train, **options: modules.VirtualBatchNorm(**options),
        per_feature("params/scale", "params/bias")
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
    init = functools.partial(entry.init, entry.build(True))
    return jax.eval_shape(init, jax.random.key(0), jnp.zeros(shape))


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
