"""Models with other normalizers, which take over the variables."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from support.drawing import place
from support.refusals import refused
from support.tiers import matrix

import jaxnorm.nnx


class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 4, rngs=rngs)
        self.norms = nnx.List([nnx.BatchNorm(4, rngs=rngs) for _ in range(2)])
        self.again = self.norms[0]

    def __call__(self, x):
        x = self.linear(x)
        for norm in (*self.norms, self.again):
            x = norm(x)
        return x


def make(cls, **options):
    return lambda norm: cls(norm.num_features, rngs=nnx.Rngs(0), **options)


@pytest.fixture
def model():
    model = Net(nnx.Rngs(0))
    for number, norm in enumerate(model.norms, 1):
        for name in ("scale", "bias", "mean", "var"):
            getattr(norm, name).set_value(jnp.full(4, 0.5 * number))
    return model


REPLACEMENTS = {
    "group": (jaxnorm.nnx.GroupNorm, {"num_groups": 2}, {"scale", "bias"}),
    "ghost": (
        jaxnorm.nnx.GhostBatchNorm,
        {"virtual_batch_size": 2},
        {"scale", "bias", "mean", "var"},
    ),
    "ours": (jaxnorm.nnx.BatchNorm, {}, {"scale", "bias", "mean", "var"}),
    "renorm": (jaxnorm.nnx.BatchRenorm, {}, {"scale", "bias", "mean"}),
}


@pytest.mark.parametrize("name", matrix(REPLACEMENTS, often=("group", "renorm")))
def test_variables_are_taken_over(name, model, rng):
    cls, options, kept = REPLACEMENTS[name]
    x = place(rng.normal(size=(4, 3)))
    new = jaxnorm.nnx.replace_norms(model, {nnx.BatchNorm: make(cls, **options)})
    assert all(type(norm) is nnx.BatchNorm for norm in model.norms)
    assert new.linear.kernel is model.linear.kernel
    assert new.again is new.norms[0]
    expected = model.linear(x)
    layers = []
    for old, norm in zip(model.norms, new.norms, strict=True):
        assert type(norm) is cls
        written = cls(4, rngs=nnx.Rngs(0), **options)
        for key in kept:
            assert getattr(norm, key) is getattr(old, key)
            getattr(written, key).set_value(getattr(old, key)[...])
        layers.append(written)
    for layer in (*layers, layers[0]):
        expected = layer(expected)
    np.testing.assert_allclose(new(x), expected, rtol=1e-5, atol=1e-5)


def test_an_axis_of_the_same_class():
    model = jaxnorm.nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    kinds = {jaxnorm.nnx.BatchNorm: make(jaxnorm.nnx.BatchNorm, axis_name="device")}
    new = jaxnorm.nnx.replace_norms(nnx.Sequential(model), kinds).layers[0]
    assert new.axis_name == "device" and new.scale is model.scale


def test_nothing_to_replace(model):
    with refused("LayerNorm", "none"):
        jaxnorm.nnx.replace_norms(model, {nnx.LayerNorm: make(jaxnorm.nnx.RMSNorm)})


@pytest.mark.parametrize("made", [jaxnorm.nnx.GroupNorm, nnx.Dropout(0.5), None])
def test_a_replacement_that_is_not_a_function_is_an_error(model, made):
    with refused("replacements", "BatchNorm: lambda norm"):
        jaxnorm.nnx.replace_norms(model, {nnx.BatchNorm: made})
    with refused("replacements", "dict", "BatchNorm"):
        jaxnorm.nnx.replace_norms(model, nnx.BatchNorm)
    with refused("return a module", "NoneType"):
        jaxnorm.nnx.replace_norms(model, {nnx.BatchNorm: lambda norm: None})


def test_a_model_of_linen():
    with refused("Dense", "jaxnorm.linen.replace_norms"):
        jaxnorm.nnx.replace_norms(nn.Dense(2), {})
