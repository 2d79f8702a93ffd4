"""Which parameters of Linen modules are those of normalizers."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from support import family
from support.family_modules import TABLE

import jaxnorm.linen
from jaxnorm.tools import normalization_mask

# Of the modules that hold more than a normalizer, what is none.
OTHERS = {
    "WeightNorm/layer_instance/kernel",
    "WeightNorm/layer_instance/bias",
    "WeightStandardization/layer_instance/kernel",
    "WeightStandardization/layer_instance/bias",
    "SpectralNorm/layer_instance/kernel",
    "SpectralNorm/layer_instance/bias",
    "BatchNormLSTMCell/cell/input/kernel",
    "BatchNormLSTMCell/cell/recurrent/kernel",
    "BatchNormLSTMCell/cell/bias",
}
BY_WEIGHTS_OR_EXAMPLE = {
    "WeightNorm",
    "VirtualBatchNorm",
    "LayerNorm",
    "RMSNorm",
    "GatedRMSNorm",
    "SeedNorm",
    "GroupNorm",
    "CausalGroupNorm",
    "InstanceNorm",
    "ReversibleInstanceNorm",
    "GraphNorm",
    "SegmentLayerNorm",
    "SegmentRMSNorm",
    "FilterResponseNorm",
    "GlobalResponseNorm",
    "DynamicTanh",
    "DynamicErf",
    "EvoNormS0",
}


def paths(tree):
    """By path: whether it is marked."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def marked(mask):
    found = paths(mask)
    assert all(type(value) is bool for value in found.values())
    return {path for path, value in found.items() if value}


@pytest.fixture(scope="module")
def every_module():
    """Variables of every module, each under its name."""
    x, *_ = family.draw_arguments(family.TABLE["rms_norm"], 0)
    variables = {}
    for name, entry in TABLE.items():
        init = functools.partial(entry.init, entry.build(True))
        own = jax.eval_shape(init, jax.random.key(0), x)
        for collection, tree in own.items():
            variables.setdefault(collection, {})[name] = tree
    return variables


def test_the_family(every_module):
    mask = normalization_mask(every_module)
    assert jax.tree.structure(mask) == jax.tree.structure(every_module["params"])
    assert set(paths(every_module["params"])) > OTHERS
    assert set(paths(mask)) - marked(mask) == OTHERS


def test_batch_normalizers_alone(every_module):
    # without the collection by which virtual batch norm is told, too
    variables = {name: every_module[name] for name in ("params", "batch_stats")}
    found = marked(normalization_mask(variables, only_with_statistics=True))
    expected = marked(normalization_mask(every_module))
    names = {path for path in expected if path.split("/")[0] in BY_WEIGHTS_OR_EXAMPLE}
    assert found == expected - names


class Flax(nn.Module):
    """Classes of flax.linen, with and without a scale."""

    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(8, 8)(tokens)
        x = nn.BatchNorm(use_running_average=True)(x)
        x = nn.BatchNorm(use_running_average=True, use_scale=False)(x)
        x = nn.LayerNorm()(x)
        x = nn.LayerNorm(use_scale=False, name="bias_alone")(x)
        x = nn.GroupNorm(2)(nn.RMSNorm()(x))
        x = nn.InstanceNorm()(nn.Conv(8, (3,))(x))
        x = nn.PReLU()(nn.WeightNorm(nn.Dense(8))(x))
        x = nn.SpectralNorm(nn.Dense(8, name="Dense_1"))(x, update_stats=False)
        x = nn.MultiHeadDotProductAttention(2, normalize_qk=True)(x)
        x = nn.RNN(nn.LSTMCell(8))(x)
        partitioned = nn.with_partitioning(nn.initializers.ones, ("model",))
        return nn.LayerNorm(scale_init=partitioned, name="boxed")(x)


FLAX = {
    "BatchNorm_0/scale",
    "BatchNorm_0/bias",
    "BatchNorm_1/bias",
    "LayerNorm_0/scale",
    "LayerNorm_0/bias",
    "RMSNorm_0/scale",
    "GroupNorm_0/scale",
    "GroupNorm_0/bias",
    "InstanceNorm_0/scale",
    "InstanceNorm_0/bias",
    "WeightNorm_0/Dense_0/kernel/scale",
    "MultiHeadDotProductAttention_0/query_ln/scale",
    "MultiHeadDotProductAttention_0/key_ln/scale",
    "boxed/scale",
    "boxed/bias",
}


@pytest.fixture(scope="module")
def flax_variables():
    return jax.eval_shape(Flax().init, jax.random.key(0), jnp.ones((2, 4), int))


def test_classes_of_flax(flax_variables):
    mask = normalization_mask(flax_variables)
    assert marked(mask) == FLAX
    named = normalization_mask(flax_variables, norms=[("bias_alone",)])
    assert marked(named) == FLAX | {"bias_alone/bias"}
    batch = marked(normalization_mask(flax_variables, only_with_statistics=True))
    assert batch == {path for path in FLAX if path.startswith("BatchNorm")}


def test_norms_are_found_in_parameters_without_statistics(flax_variables):
    mask = normalization_mask(flax_variables["params"])
    assert marked(mask) == FLAX - {"BatchNorm_1/bias"}


def test_a_gain_of_weights():
    layer = jaxnorm.linen.WeightStandardization(nn.Dense(2), use_gain=True)
    variables = jax.eval_shape(layer.init, jax.random.key(0), jnp.ones((1, 3)))
    assert marked(normalization_mask(variables)) == {"layer_instance/kernel/gain"}


def test_a_path_that_leads_nowhere_is_an_error(flax_variables):
    with pytest.raises(ValueError, match=r"got \('LayerNorm_9',\)"):
        normalization_mask(flax_variables, norms=[("LayerNorm_9",)])


def test_names_beside_others_do_not_make_a_normalizer():
    node = {"scale": jnp.ones(1), "embedding": jnp.ones(1)}
    assert not marked(normalization_mask({"params": {"x": node}}))
    learned = {"params": {"x": {"scale": jnp.ones(1), "mean": jnp.ones(1)}}}
    assert not marked(normalization_mask(learned))


def test_optax_takes_it():
    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.LayerNorm()(nn.Dense(3)(x))

    variables = jax.eval_shape(Model().init, jax.random.key(0), jnp.ones((1, 2)))
    others = jax.tree.map(operator.not_, normalization_mask(variables))
    optimizer = optax.add_decayed_weights(1.0, mask=others)
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape), variables["params"])
    zero = jax.tree.map(np.zeros_like, params)
    decay, _ = optimizer.update(zero, optimizer.init(params), params)
    moved = {path for path, leaf in paths(decay).items() if leaf.any()}
    assert moved == {"Dense_0/kernel", "Dense_0/bias"}
