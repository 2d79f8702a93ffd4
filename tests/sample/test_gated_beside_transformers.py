"""Gated RMS norm beside the modules of models that have it: values and gradients."""

import functools
import importlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnorm

pytestmark = pytest.mark.peers
torch = pytest.importorskip("torch")
with warnings.catch_warnings():  # of libraries that are not there
    warnings.simplefilter("ignore")
    pytest.importorskip("transformers")

FEATURES, GROUP = 8, 4
# The module's name, what it is made with, and our options.
CASES = {
    "qwen3_next": ("Qwen3NextRMSNormGated", {}, {}),
    "mamba2": (
        "MambaRMSNormGated",
        {"group_size": GROUP},
        {"gate_first": True, "group_size": GROUP},
    ),
    "zamba2": (
        "Zamba2RMSNormGated",
        {"group_size": GROUP},
        {"gate_first": True, "num_groups": FEATURES // GROUP},
    ),
}


@pytest.mark.parametrize("model", CASES)
def test_values_and_gradients(model, rng):
    name, made_with, options = CASES[model]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        models = f"transformers.models.{model}.modeling_{model}"
        module = getattr(importlib.import_module(models), name)(FEATURES, **made_with)
    shape = (2, 5, FEATURES)
    x, gate, weight = (np.float32(rng.normal(size=shape)) for _ in range(3))
    scale = np.float32(rng.normal(1, 0.3, FEATURES))
    module.load_state_dict({"weight": torch.tensor(scale)})
    their_x, their_gate = (torch.tensor(v, requires_grad=True) for v in (x, gate))
    theirs = module(their_x, their_gate)
    (theirs * torch.tensor(weight)).sum().backward()

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(arguments):
        y = jaxnorm.gated_rms_norm(*arguments, **options)
        return jnp.sum(y * weight), y

    (_, y), gradients = jax.jit(loss)((x, gate, scale))
    np.testing.assert_allclose(y, theirs.detach(), rtol=1e-5, atol=1e-6)
    others = their_x.grad, their_gate.grad, module.weight.grad
    for gradient, other in zip(gradients, others, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-4, atol=1e-5)
