"""RMS norm that rounds before it scales, as Hugging Face's Llama does."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.drawing import draw
from support.jitted import jitted

import jaxnorm
import jaxnorm.linen
import jaxnorm.nnx

EPSILON = 1e-6
SHAPE = (64, 96)
scales = pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])


def formula(x, scale):
    """Theirs: weight * hidden_states.to(input_dtype), in the product's dtype.

    And where the rounding within does not hang on the last bit of float32.
    """
    wide = np.asarray(x, np.float64)
    xhat = wide / np.sqrt(np.mean(wide**2, -1, keepdims=True) + EPSILON)
    near = [(xhat * f).astype(jnp.bfloat16) for f in (1 - 1e-5, 1 + 1e-5)]
    product = near[0].astype(np.float32) * np.asarray(scale, np.float32)
    return product.astype(scale.dtype), near[0] == near[1]


@scales
def test_it_equals_llama_bit_for_bit(dtype, rng):
    x, scale = draw(rng, SHAPE, jnp.bfloat16, std=2), draw(rng, 96, dtype, loc=1)
    y, usual = (
        np.asarray(jitted(jaxnorm.rms_norm, round_before_scale=r)(x, scale))
        for r in (True, False)
    )
    expected, certain = formula(np.asarray(x), np.asarray(scale))
    assert y.dtype == dtype and np.mean(certain) > 0.9
    np.testing.assert_array_equal(y[certain], expected[certain])
    assert np.mean(usual != y) > 0.1


def test_an_offset_belongs_to_the_scale(rng):
    x, scale = draw(rng, SHAPE, jnp.bfloat16), draw(rng, 96, std=0.1)
    norm = jitted(jaxnorm.rms_norm, round_before_scale=True, scale_offset=1.0)
    expected, certain = formula(np.asarray(x), 1 + np.asarray(scale))
    actual = np.asarray(norm(x, scale))
    np.testing.assert_array_equal(actual[certain], expected[certain])


def test_float32_is_not_rounded(rng):
    x, scale = draw(rng, SHAPE), draw(rng, 96, loc=1)
    y, usual = (
        jitted(jaxnorm.rms_norm, round_before_scale=r)(x, scale) for r in (True, False)
    )
    np.testing.assert_allclose(y, usual, rtol=1e-6)


def test_derivatives_are_those_without(rng):
    arguments = draw(rng, SHAPE, jnp.bfloat16), draw(rng, 96, loc=1)

    @functools.partial(jax.jit, static_argnums=2)
    def gradients(x, scale, rounds):
        def loss(x, scale):
            return jnp.sum(jaxnorm.rms_norm(x, scale, round_before_scale=rounds))

        return jax.grad(loss, (0, 1))(x, scale)

    for a, b in zip(*(gradients(*arguments, r) for r in (True, False)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_modules(rng):
    x = draw(rng, SHAPE, jnp.bfloat16)
    scale = draw(rng, 96, loc=1)
    linen = jaxnorm.linen.RMSNorm(round_before_scale=True)
    module = jaxnorm.nnx.RMSNorm(96, round_before_scale=True, rngs=nnx.Rngs(0))
    module.scale.set_value(scale)
    expected = jitted(jaxnorm.rms_norm, round_before_scale=True)(x, scale)
    by_linen = jax.jit(linen.apply)({"params": {"scale": scale}}, x)
    for y in by_linen, nnx.jit(lambda module, x: module(x))(module, x):
        np.testing.assert_array_equal(y, expected)
