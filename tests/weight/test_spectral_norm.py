"""Spectral normalization against float64, the singular values, and its gradient."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from oracles import error, wide
from support.drawing import draw, place
from support.jitted import jitted
from support.refusals import refused
from support.tiers import diagonal, in_full, matrix
from support.transformed import check_derivative, check_layers, step_of

from jaxnorm.weight.spectral_norm import spectral_norm

SHAPES = [(7, 5), (5, 7), (3, 2, 4, 5), (6, 1), (1, 6)]


def oracle(w, u, n_steps=1, epsilon=1e-12):
    """w / sigma, u, sigma, and v; in NumPy."""
    matrix, u = wide(w).reshape(-1, np.shape(w)[-1]), wide(u)
    u = u / np.linalg.norm(u)
    epsilon = epsilon * np.abs(matrix).max() ** 2
    for _ in range(n_steps):
        v = matrix @ u
        v = v / np.sqrt(v @ v + epsilon)
        u = matrix.T @ v
        u = u / np.sqrt(u @ u + epsilon)
    sigma = v @ matrix @ u
    return wide(w) / sigma, u, sigma, v


def oracle_gradient(dw, normalized, u, sigma, v):
    """Of <dw, w / sigma> in w, at constant u and v."""
    dw = wide(dw)
    outer = np.outer(v, u).reshape(dw.shape)
    return (dw - np.sum(dw * normalized) * outer) / sigma


def value_and_gradients(dw, w, u, **options):
    outputs, *gradients = step_of(spectral_norm, **options)(dw, w, u)
    return outputs, gradients


def check(dw, w, u, tolerance=3e-5, **options):
    outputs, (gradient, du) = value_and_gradients(dw, w, u, **options)
    options.pop("dtype", None)
    *expected, v = oracle(w, u, **options)
    for value, wanted in zip(outputs, expected, strict=True):
        assert error(value, wanted) <= tolerance
    assert error(gradient, oracle_gradient(dw, *expected, v)) <= tolerance
    np.testing.assert_array_equal(du, 0)
    return *outputs, gradient


OPTIONS = {}, {"n_steps": 3}, {"epsilon": 0.5}


@pytest.mark.parametrize(
    ("shape", "options"),
    matrix(itertools.product(SHAPES, OPTIONS), diagonal(SHAPES, OPTIONS)),
    ids=str,
)
def test_oracle(shape, options, rng):
    w, dw = draw(rng, shape), draw(rng, shape)
    check(dw, w, draw(rng, shape[-1]), **options)


@pytest.mark.parametrize(
    "dtype, u_dtype, option, result, tolerance",
    [
        in_full(("bfloat16", "bfloat16", None, "bfloat16", 1e-2)),
        in_full(("bfloat16", "float32", None, "float32", 1e-2)),
        ("bfloat16", "float32", "bfloat16", "bfloat16", 1e-2),
        ("float16", "float16", None, "float16", 2e-3),
        in_full(("float32", "bfloat16", None, "float32", 1e-2)),
        ("float64", "float64", None, "float64", 1e-13),
    ],
)
def test_dtypes(dtype, u_dtype, option, result, tolerance, rng, x64):
    w = draw(rng, (40, 5), jnp.dtype(dtype))
    u = draw(rng, 5, jnp.dtype(u_dtype))
    dw = draw(rng, (40, 5), jnp.dtype(result))
    normalized, u, sigma, gradient = check(dw, w, u, tolerance, dtype=option)
    assert (normalized.dtype, u.dtype, gradient.dtype) == (result, u_dtype, dtype)
    assert sigma.dtype == ("float64" if dtype == "float64" else "float32")


@pytest.mark.parametrize(
    ("shape",), matrix(zip(SHAPES), often=zip(SHAPES[1:3])), ids=str
)
def test_sigma_becomes_the_largest_singular_value(shape, rng):
    """Of many calls that carry u, which are the same as one call with many steps."""
    w, u = draw(rng, shape), draw(rng, shape[-1])
    _, singular, right = np.linalg.svd(wide(w).reshape(-1, shape[-1]))

    @jax.jit
    def one_by_one_and_at_once(w, u):
        def call(u, _):
            _, u, sigma = spectral_norm(w, u)
            return u, (u, sigma)

        last, every = jax.lax.scan(call, u, length=99)
        return spectral_norm(w, last), every, spectral_norm(w, u, n_steps=4)[1:]

    (normalized, new_u, sigma), (us, sigmas), at_once = jax.device_get(
        one_by_one_and_at_once(w, u)
    )
    chex.assert_trees_all_close(at_once, (us[3], sigmas[3]), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(sigma, singular[0], rtol=1e-5)
    np.testing.assert_allclose(np.abs(wide(new_u) @ right[0]), 1, rtol=1e-5)
    largest = np.linalg.norm(wide(normalized).reshape(-1, shape[-1]), 2)
    np.testing.assert_allclose(largest, 1, rtol=1e-5)

    np.testing.assert_allclose(sigmas[-1], singular[0], rtol=1e-5)
    assert (np.diff(sigmas) >= -1e-5).all()  # from below
    if min(np.prod(shape[:-1]), shape[-1]) > 1:
        assert sigmas[0] < 0.99 * singular[0]


@pytest.mark.parametrize("size", [1e-30, 1e-7, 1e12, 1e30])
def test_the_size_of_w_and_u_does_not_matter(size, rng):
    w, u, dw = draw(rng, (7, 5), std=size), draw(rng, 5, std=size), draw(rng, (7, 5))
    (normalized, _, sigma), (gradient, _) = value_and_gradients(dw, w, u)
    *expected, v = oracle(w, u)
    assert error(normalized, expected[0]) <= 3e-5
    assert error(wide(sigma) / size, expected[2] / size) <= 3e-5
    wanted = oracle_gradient(dw, *expected, v)
    assert error(wide(gradient) * size, wanted * size) <= 3e-5


@pytest.mark.parametrize("size", [1e-18, 1e-7, 1.0, 1e18])
def test_sigma_comes_near_1_at_every_size(size):
    """Call by call: with an epsilon that is not relative, 1e-7 grows without end."""
    w = place(np.diag([5.0, 2.0]) * size)

    @jax.jit
    def calls(w, u):
        def call(u, _):
            normalized, u, _ = spectral_norm(w, u)
            return u, normalized

        return jax.lax.scan(call, u, length=10)[1]

    np.testing.assert_allclose(calls(w, place(np.ones(2)))[-1][0, 0], 1, rtol=1e-5)


@pytest.mark.parametrize("epsilon", matrix([0.0, 1e-12], often=[0.0]))
def test_sigma_0_leaves_the_weight(epsilon, rng):
    dw = draw(rng, (2, 2))
    for w, u in (
        (np.zeros((2, 2)), [0.5, 1.0]),
        (np.zeros((2, 2)), [0.0, 0.0]),
        ([[0.0, 5.0], [0.0, 7.0]], [1.0, 0.0]),  # orthogonal
    ):
        w, u = place(w), place(u)
        outputs, gradients = value_and_gradients(dw, w, u, epsilon=epsilon)
        np.testing.assert_array_equal(outputs[0], w)
        assert outputs[2] == 0
        np.testing.assert_array_equal(gradients[0], dw)
        chex.assert_tree_all_finite((outputs, gradients))
        check_that_it_is_found_from(outputs[1])


@pytest.mark.parametrize("size", [1, 2, 64])
def test_u_of_0_starts_anew(size):
    """As a kernel of zeros has left it in checkpoints of Flax."""
    w = place(5 * np.eye(size))
    outputs, gradients = value_and_gradients(w, w, place(np.zeros(size)))
    np.testing.assert_allclose(outputs[0], np.eye(size), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs[2], 5, rtol=1e-5)
    chex.assert_tree_all_finite((outputs, gradients))


def test_without_a_restart_what_was_0_passes():
    u = jnp.ones(2)
    for size in (0, 5, 7):
        w = place(size * np.eye(2))
        normalized, u, sigma = jitted(spectral_norm, restart=False)(w, u)
        np.testing.assert_array_equal(normalized, w)
        np.testing.assert_array_equal(u, 0)
        assert sigma == 0


def check_that_it_is_found_from(u):
    """Checks that the singular value of another weight is found."""
    _, _, sigma = jitted(spectral_norm, n_steps=9)(place(np.diag([2.0, 5.0])), u)
    np.testing.assert_allclose(sigma, 5, rtol=1e-5)


def test_gradient_of_sigma_is_the_outer_product(rng):
    w, u = draw(rng, (7, 5)), draw(rng, 5)
    _, new_u, _, v = oracle(w, u)
    gradient = jax.jit(jax.grad(lambda w: spectral_norm(w, u)[2]))(w)
    assert error(gradient, np.outer(v, new_u)) <= 3e-5


def test_no_gradient_through_the_new_u(rng):
    w, u = draw(rng, (7, 5)), draw(rng, 5)
    gradients = jax.grad(lambda w, u: spectral_norm(w, u)[1].sum(), (0, 1))
    for gradient in jax.jit(gradients)(w, u):
        np.testing.assert_array_equal(gradient, 0)


def test_the_gradient_is_orthogonal_to_the_weight_at_convergence(rng):
    """As is that of all functions that do not depend on the size of w."""
    w, dw = draw(rng, (7, 5)), draw(rng, (7, 5))
    _, u, *_ = oracle(w, draw(rng, 5), n_steps=60)
    _, (gradient, _) = value_and_gradients(dw, w, place(u))
    assert np.abs(np.sum(wide(gradient) * wide(w))) <= 1e-4
    assert np.sum(np.abs(wide(gradient) * wide(w))) >= 1


# ---- under JAX's transformations


# The Hessian is by both modes.
@pytest.mark.parametrize(
    "derivative", matrix(["grad", "jvp", "hessian"], often=["hessian"])
)
def test_derivatives_are_those_of_the_formula(derivative, rng, x64):
    w, tangent, weight = (draw(rng, (4, 3), np.float64) for _ in range(3))
    u = draw(rng, 3, np.float64)
    _, new_u, _, v = oracle(w, u)
    outer = jax.device_put(np.outer(v, new_u))
    functions = lambda w: spectral_norm(w, u)[0], lambda w: w / jnp.sum(outer * w)
    check_derivative(derivative, functions, (w,), (tangent,), weight, 1e-9)


def test_vmap_scan_and_remat(rng):
    w, u, dw = draw(rng, (6, 4, 3)), draw(rng, (6, 3)), draw(rng, (4, 3))

    def loss(w, u):
        normalized, u, sigma = spectral_norm(w, u)
        return jnp.sum(jnp.sin(normalized) * dw) + sigma, u

    check_layers(loss, (w, u), 0, rtol=1e-4)


def test_no_retrace(rng):
    chex.clear_trace_counter()  # it is of the whole process
    step = jax.jit(chex.assert_max_traces(spectral_norm, 1))
    u = draw(rng, 3)
    for _ in range(3):
        _, u, _ = step(draw(rng, (4, 3)), u)


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("axis", matrix(range(3), often=[2]))
def test_sharded(axis, axis_type, rng):
    spec = [None] * 3
    spec[axis] = "model"
    w, u, dw = draw(rng, (2, 4, 6)), draw(rng, 6), draw(rng, (2, 4, 6))
    mesh = jax.make_mesh((2,), ("model",), (axis_type,), devices=jax.devices()[:2])

    def put(array, *spec):
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*spec)))

    with jax.set_mesh(mesh):
        check(put(dw, *spec), put(w, *spec), put(u, spec[-1]))


# ---- bad input

w, u = place(np.ones((4, 5))), place(np.ones(5))
BAD = {
    "no step": (w, u, {"n_steps": 0}, ("n_steps", "at least 1", "0")),
    "a fractional step": (w, u, {"n_steps": 1.0}, ("n_steps", "1.0")),
    "a flag as steps": (w, u, {"n_steps": True}, ("n_steps", "True")),
    "a vector": (u, u, {}, ("w", "two axes", "(5,)")),
    "a scalar": (place(1.0), u, {}, ("w", "two axes", "()")),
    "u of another size": (w, place(np.ones(4)), {}, ("u", "(5,)", "(4,)")),
    "u of Flax": (w, place(np.ones((1, 5))), {}, ("u", "(5,)", "(1, 5)", "u[0]")),
    "integers": (place(w, np.int32), u, {}, ("w", "int32", "astype")),
    "integer u": (w, place(u, np.int32), {}, ("u", "int32", "astype")),
    "complex w": (place(w, np.complex64), u, {}, ("w", "real", "complex64")),
    "epsilon": (w, u, {"epsilon": -1.0}, ("epsilon", "-1.0")),
    "dtype": (w, u, {"dtype": jnp.int32}, ("dtype", "int32")),
}


@pytest.mark.parametrize("how", ["arrays", "tracing"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, how, as_users_run_it):
    w, u, options, says = BAD[name]
    function = functools.partial(spectral_norm, **options)
    with refused(*says):
        if how == "tracing":
            jax.eval_shape(function, w, u)
        else:
            function(w, u)


def test_traced_n_steps(as_users_run_it):
    with pytest.raises(TypeError, match="n_steps must be a Python integer"):
        jax.jit(lambda n: spectral_norm(w, u, n_steps=n))(1)
