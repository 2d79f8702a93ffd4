"""The derivative rule in the form that GPUs are given where rows are narrow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawing import draw

import jaxnorm
from jaxnorm._core import fusion


@pytest.mark.parametrize(
    ("features", "dtype", "narrow"),
    [(255, np.float32, True), (256, np.float32, False), (96, jnp.bfloat16, False)],
)
def test_which_rows_have_two_products(features, dtype, narrow, monkeypatch):
    """And a mean behind a barrier; not in RMS norm, nor without a scale."""
    x, scale = jnp.ones((2, features), dtype), jnp.ones(features, dtype)
    norms = {
        jaxnorm.layer_norm: narrow,
        jaxnorm.rms_norm: False,
        lambda x, scale: scale.sum() * jaxnorm.layer_norm(x): False,
    }
    for norm, expected in norms.items():
        forms = []

        def for_gpus(*of, gpu, default, forms=forms):
            del default
            forms.append(len(of))
            return gpu(*of)

        monkeypatch.setattr(fusion, "by_platform", for_gpus)
        jax.clear_caches()
        jax.eval_shape(jax.grad(lambda *of, norm=norm: norm(*of).sum()), x, scale)
        # By their arguments: those of the product, and shift and delta.
        assert [5 in forms, 2 in forms] == [expected, expected]
    jax.clear_caches()


@pytest.mark.parametrize("masked", [False, True])
def test_two_products_change_no_derivative(masked, rng, monkeypatch):
    """Neither the first nor the second, in any argument."""
    x, dy = draw(rng, (4, 3, 6), loc=3), draw(rng, (4, 3, 6))
    arguments = x, draw(rng, 6), draw(rng, 6)
    tangents = draw(rng, x.shape), draw(rng, 6), draw(rng, 6)
    mask = jax.device_put(np.arange(72).reshape(x.shape) % 4 != 0) if masked else None

    norm = functools.partial(jaxnorm.layer_norm, mask=mask)

    def derivatives():
        def pull(*arguments):
            y, back = jax.vjp(norm, *arguments)
            return y, back(dy)

        return jax.jit(lambda: jax.jvp(pull, arguments, tangents))()

    expected, forms = derivatives(), []

    def for_gpus(*of, gpu, default):
        del default
        forms.append(gpu.__name__)
        return gpu(*of)

    monkeypatch.setattr(fusion, "by_platform", for_gpus)
    jax.clear_caches()  # the rule is traced once for all of the same shapes
    actual = derivatives()
    jax.clear_caches()
    assert "two_products" in forms
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
