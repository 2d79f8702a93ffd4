"""Which parameters of an Equinox model are those of normalizers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.marked import marked

import jaxnorm.equinox
from jaxnorm.tools import freeze_parameters, normalization_mask


class Model(eqx.Module):
    """Norms with and without statistics among other layers, and one of Equinox."""

    layers: list
    renorm: jaxnorm.equinox.BatchRenorm
    mean_only: jaxnorm.equinox.MeanOnlyBatchNorm
    layer_norm: jaxnorm.equinox.LayerNorm
    other: eqx.nn.LayerNorm

    def __init__(self, key):
        self.layers = [eqx.nn.Linear(3, 4, key=key), jaxnorm.equinox.BatchNorm(4)]
        self.renorm = jaxnorm.equinox.BatchRenorm(4, use_scale=False)
        self.mean_only = jaxnorm.equinox.MeanOnlyBatchNorm(4)
        self.layer_norm = jaxnorm.equinox.LayerNorm(4)
        self.other = eqx.nn.LayerNorm(4)


BATCH = {
    "layers/1/params/bias",
    "layers/1/params/scale",
    "renorm/params/bias",
    "mean_only/params/bias",
}
EXAMPLE = {"layer_norm/params/bias", "layer_norm/params/scale"}
FORMS = {
    "the model": lambda model, state: model,
    "its arrays": lambda model, state: eqx.filter(model, eqx.is_inexact_array),
    "collections": lambda model, state: {"params": model, "batch_stats": state},
}


@pytest.fixture
def model_and_state():
    return eqx.nn.make_with_state(Model)(jax.random.key(0))


@pytest.mark.parametrize("form", FORMS)
def test_parameters_of_norms_are_marked(form, model_and_state):
    variables = FORMS[form](*model_and_state)
    assert marked(normalization_mask(variables)) == BATCH | EXAMPLE
    batch = normalization_mask(variables, only_with_statistics=True)
    assert marked(batch) == BATCH
    more = normalization_mask(variables, norms=[("other",)])
    assert marked(more) == BATCH | EXAMPLE | {"other/weight", "other/bias"}


def test_a_model_before_its_state_is_taken_from_it():
    mask = normalization_mask(Model(jax.random.key(0)), only_with_statistics=True)
    assert marked(mask) == BATCH


@pytest.mark.parametrize("form", FORMS)
def test_an_optimizer_leaves_them_alone(form, model_and_state):
    model, _ = model_and_state
    optimizer = freeze_parameters(optax.sgd(0.1), FORMS[form](*model_and_state))
    trained = eqx.filter(model, eqx.is_inexact_array)
    gradients = jax.tree.map(jnp.ones_like, trained)
    updates, _ = optimizer.update(gradients, optimizer.init(trained), trained)
    moved = eqx.apply_updates(model, updates)
    same = jax.tree.map(np.array_equal, trained, eqx.filter(moved, eqx.is_array))
    assert marked(same) == BATCH
