"""Weight standardization against float64, and what it does not depend on."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType
from oracles import error, wide
from support.drawing import draw, place
from support.refusals import refused
from support.tiers import diagonal, in_full, matrix
from support.transformed import check_derivative, check_layers, put_along, step_of

from jaxnorm.weight.standardize_weight import standardize_weight

CASES = {  # shape of w, feature axes, shape of gain
    "dense": ((7, 5), -1, (5,)),
    "image": ((3, 3, 4, 5), -1, (5,)),
    "features first": ((5, 4, 3), 0, (5,)),
    "two feature axes": ((4, 3, 5), (2, 0), (4, 5)),
    "gain of full rank": ((4, 3, 5), -1, (1, 1, 1)),
}


def oracle(dw, w, gain=None, feature_axes=-1, epsilon=1e-6):
    """The standardized weight, and the gradients of <dw, it> in w and gain.

    In NumPy. With c = w - mean, n = fan_in and the divisor s,

        plain:   s^2 = var + epsilon    dw = (P(dw) - xhat mean(xhat dw)) / s
        scaled:  s^2 = n var            dw = gain (P(dw) - xhat sum(xhat dw)) / s

    where xhat = c / s and P subtracts the mean; where n var < 1e-4 s is constant.
    """
    w, dw = wide(w), wide(dw)
    features = {axis % w.ndim for axis in np.atleast_1d(feature_axes)}
    axes = tuple(axis for axis in range(w.ndim) if axis not in features)
    fan_in = np.prod([w.shape[axis] for axis in axes])
    c = w - w.mean(axes, keepdims=True)
    var = np.mean(np.abs(c) ** 2, axes, keepdims=True)
    projected = dw - dw.mean(axes, keepdims=True)
    if gain is None:
        s = np.sqrt(var + epsilon)
        xhat = c / s
        inner = np.mean(np.real(np.conj(xhat) * dw), axes, keepdims=True)
        return xhat, (projected - xhat * inner) / s, None
    expanded = wide(gain)
    if expanded.ndim < w.ndim:
        expanded = np.expand_dims(expanded, axes)
    s = np.sqrt(np.maximum(fan_in * var, 1e-4))
    xhat = c / s
    inner = np.real(np.conj(xhat) * dw)
    sums = np.where(fan_in * var < 1e-4, 0, inner.sum(axes, keepdims=True))
    shared = tuple(i for i, n in enumerate(expanded.shape) if n == 1)
    dgain = inner.sum(shared).reshape(np.shape(gain))
    return expanded * xhat, expanded * (projected - xhat * sums) / s, dgain


def value_and_gradients(dw, w, gain=None, **options):
    return step_of(with_gain, **options)(dw, w, gain)


def with_gain(w, gain, **options):
    return standardize_weight(w, gain=gain, **options)


def check(dw, w, gain=None, tolerance=3e-5, **options):
    actual = value_and_gradients(dw, w, gain, **options)
    options.pop("dtype", None)
    for value, wanted in zip(actual, oracle(dw, w, gain, **options), strict=True):
        if wanted is None:
            assert value is None
        else:
            assert error(value, wanted) <= tolerance
    return actual


@pytest.mark.parametrize(
    ("case", "scaled"),
    matrix(itertools.product(CASES, (False, True)), diagonal(CASES, (True, False))),
)
def test_oracle(case, scaled, rng):
    shape, feature_axes, gain_shape = CASES[case]
    w, dw = draw(rng, shape, loc=0.3, std=0.5), draw(rng, shape)
    gain = draw(rng, gain_shape, loc=1) if scaled else None
    check(dw, w, gain, feature_axes=feature_axes)
    check(dw, w, gain, feature_axes=feature_axes, epsilon=0.1)


def test_fan_in_variance_is_kept_above_1e_4(rng):
    """One unit above it, one below, one at 0."""
    w = place(wide(draw(rng, (16, 3))) * [1.0, 1e-3, 0.0])
    standardized, *_ = check(draw(rng, (16, 3)), w, place(np.ones(3)))
    np.testing.assert_allclose(
        np.linalg.norm(standardized, axis=0) < 0.9, [False, True, True]
    )


def test_fan_in_of_a_grouped_convolution_is_that_of_one_group(rng):
    conv = nn.Conv(6, (3, 3), feature_group_count=2)
    x = place(np.ones((1, 8, 8, 4)))
    kernel = jax.jit(conv.init)(jax.random.key(0), x)["params"]["kernel"]
    standardized = wide(jax.jit(standardize_weight)(kernel, gain=place(np.ones(6))))
    fan_in = 3 * 3 * 2
    np.testing.assert_allclose(standardized.var((0, 1, 2)) * fan_in, 1, rtol=1e-5)


@pytest.mark.parametrize(
    "dtype, gain, option, result, tolerance",
    [
        in_full(("bfloat16", None, None, "bfloat16", 1e-2)),
        ("bfloat16", "float32", None, "float32", 1e-2),
        ("float16", "float16", None, "float16", 2e-3),
        in_full(("float32", None, "bfloat16", "bfloat16", 1e-2)),
        ("float64", None, None, "float64", 1e-13),
        in_full(("float64", "float64", None, "float64", 1e-13)),
        in_full(("complex64", None, None, "complex64", 1e-5)),
        ("complex64", "float32", None, "complex64", 1e-5),
    ],
)
def test_dtypes(dtype, gain, option, result, tolerance, rng, x64):
    w = draw(rng, (40, 5), jnp.dtype(dtype), loc=0.3)
    gain = gain and draw(rng, 5, jnp.dtype(gain), loc=1)
    dw = draw(rng, (40, 5), jnp.dtype(result))
    standardized, dw, _ = check(dw, w, gain, tolerance, dtype=option)
    assert (standardized.dtype, dw.dtype) == (result, dtype)


@pytest.mark.parametrize("offset", [1.0, 1e4])
def test_far_from_zero(offset, rng):
    """The rounding of the mean, 1e-3 of the spread at 1e4, is taken off again."""
    w = draw(rng, (64, 5), loc=offset)
    check(draw(rng, (64, 5)), w)


@pytest.mark.parametrize("case", matrix(CASES, often=["image", "two feature axes"]))
def test_identities(case, rng):
    """Mean 0, variance 1 or gain^2 / fan_in; the same for a w + b, whose dw is / a."""
    shape, feature_axes, _ = CASES[case]
    w, dw = draw(rng, shape, loc=0.3), draw(rng, shape)
    features = {axis % len(shape) for axis in np.atleast_1d(feature_axes)}
    axes = tuple(axis for axis in range(len(shape)) if axis not in features)
    sizes = [shape[axis] for axis in sorted(features)]
    for gain, var in (
        (None, 1),
        (place(np.full(sizes, 3.0)), 9 / np.prod(shape) * np.prod(sizes)),
    ):
        run = functools.partial(
            value_and_gradients, dw, gain=gain, feature_axes=feature_axes, epsilon=0.0
        )
        standardized, gradient, _ = run(w)
        np.testing.assert_allclose(wide(standardized).mean(axes), 0, atol=1e-5)
        np.testing.assert_allclose(wide(standardized).var(axes), var, rtol=1e-5)
        other, other_gradient, _ = run(place(4 * np.asarray(w) + 2))
        assert error(other, standardized) <= 1e-5
        assert error(4 * wide(other_gradient), gradient) <= 3e-5
        # dw is orthogonal to constants and to w
        size = np.abs(wide(gradient) * wide(w)).sum(axes).max()
        assert np.abs(wide(gradient).sum(axes)).max() <= 1e-5 * size
        assert np.abs((wide(gradient) * wide(w)).sum(axes)).max() <= 1e-5 * size


@pytest.mark.parametrize(
    ("epsilon", "scaled"),
    matrix(
        itertools.product((0.0, 1e-6), (False, True)),
        often=[(0.0, False), (0.0, True)],
    ),
)
def test_constant_units_come_out_as_0_with_finite_gradients(epsilon, scaled, rng):
    w = np.full((6, 3), 0.1)
    w[:, 0] = draw(rng, 6)
    gain = place(np.ones(3)) if scaled else None
    outputs = value_and_gradients(draw(rng, (6, 3)), place(w), gain, epsilon=epsilon)
    outputs = jax.device_get(outputs)
    chex.assert_tree_all_finite(outputs)
    np.testing.assert_array_equal(outputs[0][:, 1:], 0)
    assert (outputs[0][:, 0] != 0).all()


def test_zeros_without_an_epsilon_have_no_derivative():
    of_the_first = jax.grad(lambda w: standardize_weight(w, epsilon=0.0)[0, 0])
    np.testing.assert_array_equal(of_the_first(jnp.zeros((3, 2))), 0)


# ---- under JAX's transformations


def plain(w, gain):
    c = w - jnp.mean(w, 0, keepdims=True)
    var = jnp.mean(c**2, 0, keepdims=True)
    if gain is None:
        return c / jnp.sqrt(var + 1e-6)
    return gain[None] * c / jnp.sqrt(jnp.maximum(w.shape[0] * var, 1e-4))


@pytest.mark.parametrize("scaled", [False, True])
# The Hessian is by both modes.
@pytest.mark.parametrize(
    "derivative", matrix(["grad", "jvp", "hessian"], often=["hessian"])
)
def test_derivatives_are_those_of_the_formula(derivative, scaled, rng, x64):
    w, tangent, weight = (draw(rng, (4, 3), np.float64) for _ in range(3))
    gain = draw(rng, 3, np.float64) if scaled else None
    functions = (
        lambda w: standardize_weight(w, gain=gain),
        lambda w: plain(w, gain),
    )
    check_derivative(derivative, functions, (w,), (tangent,), weight, 1e-9)


def test_vmap_scan_and_remat(rng):
    w, gain, dw = draw(rng, (6, 4, 3)), draw(rng, (6, 3), loc=1), draw(rng, (4, 3))

    def loss(w, gain):
        return jnp.sum(jnp.sin(standardize_weight(w, gain=gain)) * dw), ()

    check_layers(loss, (w, gain), (0, 1))


def test_no_retrace(rng):
    chex.clear_trace_counter()  # it is of the whole process
    step = jax.jit(chex.assert_max_traces(standardize_weight, 1))
    for _ in range(3):
        step(draw(rng, (4, 3)))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("axis", matrix(range(2), often=[1]))
def test_sharded(axis, axis_type, rng):
    w, gain, dw = draw(rng, (8, 4)), draw(rng, 4), draw(rng, (8, 4))
    mesh, *sharded = put_along(axis, axis_type, dw, w, gain)
    with jax.set_mesh(mesh):
        check(*sharded)


# ---- bad input

w = place(np.ones((4, 5)))
BAD = {
    "gain of another size": (w, {"gain": place(np.ones(4))}, ("gain", "(4,)", "(5,)")),
    "gain of integers": (w, {"gain": place(np.ones(5), np.int32)}, ("gain", "int32")),
    "an axis": (w, {"feature_axes": 2}, ("feature_axes", "2")),
    "integers": (place(w, np.int32), {}, ("w", "int32", "astype")),
    "epsilon": (w, {"epsilon": -1.0}, ("epsilon", "-1.0")),
    "dtype": (w, {"dtype": jnp.int32}, ("dtype", "int32")),
}


@pytest.mark.parametrize("how", ["arrays", "tracing"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, how, as_users_run_it):
    w, options, says = BAD[name]
    function = functools.partial(standardize_weight, **options)
    with refused(*says):
        if how == "tracing":
            jax.eval_shape(function, w)
        else:
            function(w)
