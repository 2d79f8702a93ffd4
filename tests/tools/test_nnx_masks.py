"""Which parameters of flax.nnx's modules are those of normalizers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from support.marked import marked
from support.refusals import refused

from jaxnorm.tools import freeze_parameters, normalization_mask


class Model(nnx.Module):
    """Norms of flax.nnx among other layers."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(8, 4, rngs=rngs)
        self.bias_alone = nnx.BatchNorm(4, use_scale=False, rngs=rngs)
        self.layers = nnx.List(
            [nnx.Linear(4, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)]
        )
        self.conv = nnx.Conv(4, 4, (3,), rngs=rngs)
        self.norms = nnx.List(
            [
                nnx.LayerNorm(4, rngs=rngs),
                nnx.RMSNorm(4, rngs=rngs),
                nnx.GroupNorm(4, 2, rngs=rngs),
                nnx.InstanceNorm(4, rngs=rngs),
            ]
        )
        self.spectral = nnx.SpectralNorm(nnx.Linear(4, 4, rngs=rngs), rngs=rngs)


BATCH = {"bias_alone/bias", "layers/1/scale", "layers/1/bias"}
EXAMPLE = {"norms/1/scale"} | {
    f"norms/{index}/{name}" for index in (0, 2, 3) for name in ("scale", "bias")
}


@pytest.fixture
def model():
    return Model(nnx.Rngs(0))


def collections(model):
    return {
        "params": nnx.state(model, nnx.Param),
        "batch_stats": nnx.state(model, nnx.BatchStat),
    }


def test_parameters_of_norms_are_marked(model):
    pure = nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    for variables in (pure, nnx.state(model), collections(model)):
        assert marked(normalization_mask(variables)) == BATCH | EXAMPLE
        batch = normalization_mask(variables, only_with_statistics=True)
        assert marked(batch) == BATCH
    assert jax.tree.structure(normalization_mask(pure)) == jax.tree.structure(pure)
    parameters = normalization_mask(nnx.state(model, nnx.Param))
    assert marked(parameters) == (BATCH | EXAMPLE) - {"bias_alone/bias"}


def pure(model):
    return nnx.to_pure_dict(nnx.state(model))


def pure_collections(model):
    return {name: nnx.to_pure_dict(state) for name, state in collections(model).items()}


AS = {
    "the module": lambda model: model,
    "its state": nnx.state,
    "a pure dict": pure,
    "collections": collections,
    "pure collections": pure_collections,
}


@pytest.mark.parametrize("form", AS)
def test_an_optimizer_of_nnx_leaves_them_alone(form):
    rngs = nnx.Rngs(0)
    norms = (nnx.BatchNorm(4, rngs=rngs), nnx.LayerNorm(4, rngs=rngs))
    model = nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), *norms)
    frozen = freeze_parameters(optax.adamw(0.1, weight_decay=1), AS[form](model))
    optimizer = nnx.Optimizer(model, frozen, wrt=nnx.Param)

    before = pure(model)
    gradients = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        optimizer.update(model, gradients)
    same = marked(jax.tree.map(np.array_equal, before, pure(model)))
    assert same == {f"layers/1/{name}" for name in ("scale", "bias", "mean", "var")}


class Nested(nnx.Module):
    """A part that is called value, as in attention, and one that is used twice."""

    def __init__(self, rngs):
        self.value = nnx.Sequential(
            nnx.Linear(4, 4, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        )
        self.once = nnx.BatchNorm(4, rngs=rngs)
        self.twice = self.once


@pytest.mark.parametrize("form", AS)
def test_parts_called_value_and_parts_that_are_shared(form):
    model = Nested(nnx.Rngs(0))
    frozen = freeze_parameters(optax.sgd(0.1), AS[form](model))
    optimizer = nnx.Optimizer(model, frozen, wrt=nnx.Param)

    before = pure(model)
    optimizer.update(model, jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param)))
    moved = marked(
        jax.tree.map(lambda a, b: not np.array_equal(a, b), before, pure(model))
    )
    assert moved == {f"value/layers/0/{name}" for name in ("kernel", "bias")}


def test_frozen_parameters_must_be_among_the_trained_ones(model):
    optimizer = freeze_parameters(optax.sgd(0.1), model)
    with refused("bias_alone", "same model"):
        optimizer.init(nnx.state(model.norms, nnx.Param))
    # but not where a mask around it has taken it out
    others = jax.tree.map(lambda x: not x, normalization_mask(collections(model)))
    optax.masked(optimizer, others).init(nnx.state(model, nnx.Param))


class NoTree(nnx.Module, pytree=False):
    def __init__(self):
        self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))


def test_a_module_that_is_not_a_tree_is_an_error():
    with refused("variables", "NoTree", "nnx.state"):
        freeze_parameters(optax.sgd(0.1), NoTree())
    freeze_parameters(optax.sgd(0.1), nnx.state(NoTree()))
