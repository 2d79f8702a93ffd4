"""No weight is too large or too small: what is scale-invariant is so in float32."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawing import draw, place
from support.tiers import diagonal, matrix

import jaxnorm
from jaxnorm.weight import unit

ONES = place(np.ones(5))
FUNCTIONS = {  # and the exponents of two at which they do not depend on the size
    "weight_norm": (lambda w: jaxnorm.weight_norm(w, ONES), (-100, 110)),
    "weight_norm, one norm": (
        lambda w: jaxnorm.weight_norm(w, ONES[0], feature_axes=None),
        (-100, 110),
    ),
    "standardize_weight": (
        functools.partial(jaxnorm.standardize_weight, epsilon=0.0),
        (-100, 110),
    ),
    "scaled": (functools.partial(jaxnorm.standardize_weight, gain=ONES), (60, 110)),
    "plain": (jaxnorm.standardize_weight, (60, 110)),
    "spectral_norm": (lambda w: jaxnorm.spectral_norm(w, ONES)[0], (-100, 110)),
}


DTYPES = (jnp.float32, jnp.bfloat16)


@pytest.mark.parametrize(
    ("name", "dtype"),
    matrix(itertools.product(FUNCTIONS, DTYPES), diagonal(FUNCTIONS, DTYPES)),
)
def test_a_power_of_two_changes_no_bit(name, dtype, rng):
    """Of the result, and of the gradient times the size."""
    function, exponents = FUNCTIONS[name]
    w, dw = draw(rng, (3, 4, 5), dtype), draw(rng, (3, 4, 5))

    @jax.jit
    def value_and_gradient(w):
        y, pull = jax.vjp(lambda w: function(w).astype(jnp.float32), w)
        return y, pull(dw)[0].astype(jnp.float32)

    start = 20 if exponents[0] > 0 else 0  # above every epsilon
    results = []
    for exponent in (start, *exponents):
        y, gradient = value_and_gradient(w * place(2.0**exponent, dtype))
        results.append((y, np.ldexp(np.asarray(gradient, np.float64), exponent)))
    for result in results[1:]:
        for actual, expected in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(actual, expected)
    assert np.abs(results[0][0]).max() > 0.1


LEAST = {"plain": 1e-3, "scaled": 1e-2}  # what a constant unit's deviation is taken for


@pytest.mark.parametrize("name", LEAST)
def test_a_constant_weight_of_any_size_has_its_gradient(name, rng):
    """That of the mean alone; powers of the divisor overflow where it is large."""
    dw = draw(rng, (3, 4, 5))

    @jax.jit
    def gradient(w):
        return jax.vjp(FUNCTIONS[name][0], w)[1](dw)[0]

    expected = (dw - dw.mean((0, 1), keepdims=True)) / LEAST[name]
    for exponent in (-100, 0, 35, 43, 100):
        w = place(np.full((3, 4, 5), 2.0**exponent))
        np.testing.assert_allclose(gradient(w), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", LEAST)
def test_a_constant_weight_at_the_end_of_the_range_is_0(name, rng):
    """Where what its gradient is multiplied by overflows."""
    w, dw = place(np.full((3, 4, 5), 2.0**127)), draw(rng, (3, 4, 5))
    y, gradient = jax.jit(
        lambda w: (FUNCTIONS[name][0](w), jax.vjp(FUNCTIONS[name][0], w)[1](dw)[0])
    )(w)
    np.testing.assert_array_equal(y, 0)
    assert np.isfinite(gradient).all()


COMPLEX = {
    "unit_norm": functools.partial(jaxnorm.unit_norm, axes=(0, 1)),
    "weight_norm": FUNCTIONS["weight_norm"][0],
    "standardize_weight": FUNCTIONS["standardize_weight"][0],
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers_whose_absolute_value_overflows(name, rng):
    """Both of whose parts do not."""
    signs = rng.choice([-1, 1], (2, 3, 4, 5))
    w = 1.5 * (signs[0] + 1j * signs[1])
    function = jax.jit(COMPLEX[name])
    huge = function(place(2.0**127 * w, np.complex64))
    np.testing.assert_array_equal(huge, function(place(w, np.complex64)))
    assert np.abs(huge).max() > 0.1


@pytest.mark.parametrize("exponent", [-124, -85, -43, -42, -1, 0, 41, 42, 43, 85, 126])
@pytest.mark.parametrize("kind", ["real", "complex"])
def test_squares_in_one_pass_are_those_in_two(kind, exponent, rng, monkeypatch):
    """As programs for TPUs sum them, and those for GPUs that have a derivative."""
    v = draw(rng, (6, 5), np.complex64 if kind == "complex" else np.float32)
    v = place(
        np.ldexp(np.asarray(v).view(np.float32), exponent - 2).view(v.dtype), v.dtype
    )
    v = v.at[:, 3].set(0)
    dw = draw(rng, (6, 5), v.dtype)

    def derivatives():
        def normalized(v):
            y = jaxnorm.unit_norm(v, axes=0, epsilon=0.0)
            return y, jaxnorm.unit_norm(v, axes=0, epsilon=1e-12)

        def pull(v):
            y, back = jax.vjp(normalized, v)
            return y, back((dw, dw))[0] * 2.0 ** min(exponent, 80)

        return jax.jit(lambda v: (pull(v), jax.jvp(pull, (v,), (v,))[1]))(v)

    expected = derivatives()
    monkeypatch.setattr(unit, "by_platform", lambda *of, default, **_: default(*of))
    both = map(jax.tree.leaves, (derivatives(), expected))
    for actual, other in zip(*both, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_allclose(actual, other, rtol=1e-6, atol=1e-6)
    assert np.abs(expected[0][0][0]).max() > 0.3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_in_one_pass_a_vector_that_is_not_finite_is_nan(value, monkeypatch):
    monkeypatch.setattr(unit, "by_platform", lambda *of, default, **_: default(*of))
    y = jax.jit(lambda v: jaxnorm.unit_norm(v))(place([[1.0, value], [3.0, 4.0]]))
    np.testing.assert_allclose(y, [[np.nan, np.nan], [0.6, 0.8]], rtol=1e-6)
