"""The forms that programs for GPUs are given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawing import draw

import jaxnorm
from jaxnorm._core import fusion
from jaxnorm._core.moments import segments

X = 4, 3, 6
FORMS = {
    # The norm, the shapes of its other arguments, and its form for GPUs.
    "narrow rows": (jaxnorm.layer_norm, [6, 6], "two_products"),
    "segments": (
        functools.partial(
            jaxnorm.graph_norm,
            segment_ids=np.arange(12).reshape(4, 3) % 2,
            num_segments=2,
        ),
        *([6, 6, 6], "stacked"),
    ),
}


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
@pytest.mark.parametrize("case", FORMS)
def test_forms_for_gpus_change_no_derivative(case, masked, rng, monkeypatch):
    """Neither the first nor the second, in any argument."""
    norm, shapes, form = FORMS[case]
    x, dy = draw(rng, X, loc=3), draw(rng, X)
    arguments = x, *(draw(rng, shape) for shape in shapes)
    tangents = tuple(draw(rng, argument.shape) for argument in arguments)
    mask = jax.device_put(np.arange(72).reshape(x.shape) % 4 != 0) if masked else None
    norm = functools.partial(norm, mask=mask)

    def derivatives():
        def pull(*arguments):
            y, back = jax.vjp(norm, *arguments)
            return y, back(dy)

        return jax.jit(lambda: jax.jvp(pull, arguments, tangents))()

    expected, forms = derivatives(), set()

    def for_gpus(*of, gpu, default):
        del default
        forms.add(gpu.__name__)
        return gpu(*of)

    for module in fusion, segments:
        monkeypatch.setattr(module, "by_platform", for_gpus)
    jax.clear_caches()  # the rule is traced once for all of the same shapes
    actual = derivatives()
    jax.clear_caches()
    assert form in forms
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
