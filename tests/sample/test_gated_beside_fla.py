"""Gated RMS norm beside flash-linear-attention: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnorm

pytestmark = [
    pytest.mark.peers,
    # of its imports
    pytest.mark.filterwarnings("ignore"),
]

FEATURES = 8


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="module")
def reference():
    """Which needs no GPU; the kernels beside it do."""
    found = pytest.importorskip(
        "fla.modules.norm.layernorm_gated", exc_type=ImportError
    )
    return found.rms_norm_ref


@pytest.mark.parametrize("gate_first", [False, True])
@pytest.mark.parametrize("group_size", [None, 4])
def test_values_and_gradients(gate_first, group_size, torch, reference, rng):
    shape = (2, 5, FEATURES)
    x, gate, weight = (np.float32(rng.normal(size=shape)) for _ in range(3))
    scale = np.float32(rng.normal(1, 0.3, FEATURES))
    theirs = [torch.tensor(value, requires_grad=True) for value in (x, gate, scale)]
    expected = reference(
        *(theirs[0], theirs[2], None, theirs[1]),
        group_size=group_size,
        norm_before_gate=not gate_first,
    )
    (expected * torch.tensor(weight)).sum().backward()

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(arguments):
        y = jaxnorm.gated_rms_norm(
            *arguments, gate_first=gate_first, group_size=group_size
        )
        return jnp.sum(y * weight), y

    (_, y), gradients = jax.jit(loss)((x, gate, scale))
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-5, atol=1e-6)
    for gradient, other in zip(gradients, theirs, strict=True):
        np.testing.assert_allclose(gradient, other.grad, rtol=1e-4, atol=1e-5)
