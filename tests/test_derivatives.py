"""The derivative rule against plain autodiff, in float64, to the third order."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawing import place
from support.tiers import matrix

import jaxnorm

EPSILON = 1e-3


def plain_batch_norm(x, scale, bias, weights):
    """Batch norm as autodiff sees it: no shift, no rule."""
    axes = tuple(range(x.ndim - 1))
    total = jnp.sum(weights, axes, keepdims=True)
    mean = jnp.sum(weights * x, axes, keepdims=True) / total
    deviation = x - mean
    square = (deviation * jnp.conj(deviation)).real
    var = jnp.sum(weights * square, axes, keepdims=True) / total
    return deviation / jnp.sqrt(var + EPSILON) * scale + bias


CASES = {
    "plain": {},
    "mask": {"mask": "bool"},
    "weights": {"mask": "weights"},
    "scale per example": {"per_example": True},
    "scale per example, mask": {"per_example": True, "mask": "bool"},
    "two passes": {"use_fast_variance": False},
}


@pytest.fixture
def functions(case, rng, x64):
    """Our loss, the plain one, and where to differentiate them."""
    case = dict(CASES[case])
    shape, features = (4, 2, 3), 3
    mask = case.pop("mask", None)
    weights = np.ones(shape)
    if mask == "bool":
        weights = rng.uniform(size=shape) < 0.7
    elif mask == "weights":
        weights = rng.uniform(size=shape)
    affine = (4, 1, 3) if case.pop("per_example", False) else (1, 1, 3)
    x = jax.device_put(rng.normal(size=shape) * 2 + 1)
    scale = jax.device_put(rng.normal(size=affine))
    bias = jax.device_put(rng.normal(size=affine))
    stats = jaxnorm.init_batch_stats(features, jnp.float64)

    def loss(norm):
        def evaluate(x, scale, bias):
            return jnp.sum(jnp.sin(norm(x, scale, bias)) * projection)

        return evaluate

    projection = jax.device_put(rng.normal(size=shape))
    ours = functools.partial(
        jaxnorm.batch_norm,
        use_running_average=False,
        epsilon=EPSILON,
        mask=None if mask is None else jax.device_put(weights),
        **case,
    )
    weights = place(weights, np.float64)
    return (
        loss(lambda x, scale, bias: ours(x, stats, scale, bias)[0]),
        loss(lambda *args: plain_batch_norm(*args, weights)),
        (x, scale, bias),
    )


def check(ours, plain, derive, args):
    both = jax.jit(lambda *args: (derive(ours)(*args), derive(plain)(*args)))
    chex.assert_trees_all_close(*both(*args), rtol=0, atol=1e-8)


def often(*cases):
    return pytest.mark.parametrize("case", matrix(CASES, cases))


@often("plain", "weights", "scale per example, mask")
def test_gradient(functions):
    ours, plain, args = functions
    check(ours, plain, functools.partial(jax.grad, argnums=(0, 1, 2)), args)


@often("mask", "scale per example")
def test_jvp(functions, rng):
    ours, plain, args = functions
    tangents = jax.tree.map(lambda a: jax.device_put(rng.normal(size=a.shape)), args)
    check(ours, plain, lambda f: lambda *args: jax.jvp(f, args, tangents), args)


@often("scale per example, mask", "two passes")
def test_hessian(functions):
    ours, plain, args = functions
    check(ours, plain, functools.partial(jax.hessian, argnums=(0, 1, 2)), args)


@often("scale per example, mask")
def test_third_derivative(functions, rng):
    ours, plain, args = functions

    def third(f):
        # along random lines, which keeps it small: d^2/dt^2 of the gradient
        def along(*args):
            gradient = jax.grad(f, argnums=(0, 1, 2))
            tangents = jax.tree.map(jnp.ones_like, args)

            def first(*args):
                return jax.jvp(gradient, args, tangents)[1]

            return jax.jvp(first, args, tangents)[1]

        return along

    check(ours, plain, third, args)


def test_complex_gradient(rng, x64):
    shape = (6, 3)
    x, projection = (
        jax.device_put(rng.normal(size=shape) + 1j * rng.normal(size=shape))
        for _ in range(2)
    )
    scale, bias = (jax.device_put(a) for a in rng.normal(size=(2, 1, 3)) + 0j)
    stats = jaxnorm.init_batch_stats(3, jnp.float64)

    def ours(x, scale, bias):
        y, _ = jaxnorm.batch_norm(
            x, stats, scale, bias, use_running_average=False, epsilon=EPSILON
        )
        return jnp.sum((y * projection).real ** 2)

    def plain(x, scale, bias):
        y = plain_batch_norm(x, scale, bias, jnp.ones(shape))
        return jnp.sum((y * projection).real ** 2)

    args = (x, scale, bias)
    with jax.numpy_dtype_promotion("standard"):
        check(ours, plain, functools.partial(jax.grad, argnums=(0, 1, 2)), args)


def test_a_clamped_variance_has_no_gradient(rng):
    """Far from the shift the variance is rounding noise, and to x a constant."""
    x, weight = rng.normal(0, 0.3, (2, 8, 2)).astype(np.float32)
    x = x + np.float32(1000)
    stats = jaxnorm.init_batch_stats(2)

    def loss(x):
        y, _ = jaxnorm.batch_norm(x, stats, use_running_average=False)
        return jnp.sum(weight * y)

    gradient = jax.jit(jax.grad(loss))(x)
    floor = 4 * np.finfo(np.float32).eps * x.mean(0) ** 2
    expected = (weight - weight.mean(0)) / np.sqrt(floor)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-4)
