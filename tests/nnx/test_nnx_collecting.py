"""NNX models go through the tools for whole models as Linen's do."""

import jax
import numpy as np
import pytest
from flax import nnx
from support.drawing import place
from support.refusals import refused

import jaxnorm.linen
import jaxnorm.nnx
from jaxnorm import tools

forward = nnx.jit(lambda model, x: model(x))


@pytest.fixture
def model():
    rngs = nnx.Rngs(0)
    return nnx.Sequential(
        jaxnorm.nnx.BatchNorm(3, rngs=rngs),
        nnx.Linear(3, 4, rngs=rngs),
        jaxnorm.nnx.BatchNorm(4, rngs=rngs),
    )


@pytest.fixture
def x(rng):
    return place(rng.normal(5, 2, size=(20, 3)))


def test_recalibrated_layer_by_layer(model, x):
    model.train()
    expected = forward(nnx.clone(model), x)
    apply, variables = jaxnorm.nnx.collecting(model)
    stats = tools.recalibrate(
        jax.jit(lambda variables, x: apply(variables, x, False)[1]),
        variables,
        np.split(np.asarray(x), [3]),
        passes=2,
    )
    np.testing.assert_array_equal(model.layers[0].mean[...], 0)  # as it was
    jaxnorm.nnx.set_batch_stats(model, stats)
    model.eval()
    np.testing.assert_allclose(forward(model, x), expected, atol=1e-5)


def test_diagnosed(model, x):
    apply, variables = jaxnorm.nnx.collecting(model, lambda model, x: model(2 * x))
    apply = jax.jit(apply, static_argnums=2)
    diagnosis = tools.diagnose(apply, variables, x)
    assert list(diagnosis.layers) == ["layers/0", "layers/2"]
    mean = 2 * np.asarray(x, np.float64).mean(0)
    np.testing.assert_allclose(
        diagnosis.layers["layers/0"].mean_distance, np.abs(mean), rtol=1e-4
    )
    assert "never updated" in "\n".join(diagnosis.explain())
    assert not model.layers[0].collect_moments


def test_a_layer_that_is_missing_is_named(model, x):
    _, variables = jaxnorm.nnx.collecting(model)
    with pytest.raises(ValueError, match="layers/0 has statistics"):
        tools.recalibrate(lambda *_: {}, variables, [x])


def test_statistics_of_some_layers_are_refused(model):
    """Those of the others would silently stay."""
    _, variables = jaxnorm.nnx.collecting(model)
    stats = variables["batch_stats"]
    jaxnorm.nnx.set_batch_stats(model, stats)
    first = {"layers": {0: stats["layers"][0]}}
    for some in ({}, first):
        with refused("batch_stats", "BatchStat", "('layers', 2, 'mean')"):
            jaxnorm.nnx.set_batch_stats(model, some)


def test_a_call_that_is_not_a_function_is_refused(model):
    with refused("call", "str", "lambda model, batch"):
        jaxnorm.nnx.collecting(model, "encode")


def test_a_linen_model_is_refused():
    with refused("nnx", "BatchNorm", "batch_moments"):
        jaxnorm.nnx.collecting(jaxnorm.linen.BatchNorm())
