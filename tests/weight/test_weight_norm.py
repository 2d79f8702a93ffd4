"""Weight normalization against float64, its identities, and how it starts."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from oracles import error, wide
from support.drawing import draw, place
from support.refusals import refused
from support.tiers import diagonal, in_full, matrix
from support.transformed import check_derivative, check_layers, put_along, step_of

from jaxnorm.weight.weight_norm import init_weight_norm, weight_magnitude, weight_norm

CASES = {  # shape of v, feature axes, shape of g
    "dense": ((7, 5), -1, (5,)),
    "image": ((3, 2, 4, 5), -1, (5,)),
    "features first": ((5, 4, 3), 0, (5,)),
    "two feature axes": ((4, 3, 5), (2, 0), (4, 5)),
    "one norm": ((4, 3), None, ()),
    "no feature axes": ((4, 3), (), ()),
    "g of full rank": ((4, 3, 5), (0, 2), (4, 1, 1)),
    "a vector of units": ((5,), -1, (5,)),
    "one vector": ((5,), None, ()),
    "a scalar": ((), None, ()),
}


def norm_axes(ndim, feature_axes):
    features = () if feature_axes is None else np.atleast_1d(feature_axes)
    return tuple(set(range(ndim)) - {int(axis) % ndim for axis in features})


def expand(g, axes, ndim):
    g = wide(g)
    return g if g.ndim == ndim else np.expand_dims(g, axes)


def oracle(dw, v, g, feature_axes=-1, epsilon=0.0):
    """w = g v / r with r^2 = ||v||^2 + epsilon, and the gradients of <dw, w>."""
    v, dw = wide(v), wide(dw)
    axes = norm_axes(v.ndim, feature_axes)
    expanded = expand(g, axes, v.ndim)
    r = np.sqrt(np.sum(np.abs(v) ** 2, axes, keepdims=True) + epsilon)
    share = np.real(np.conj(v) * dw) / r
    dg = np.sum(share, axes, keepdims=True)
    dv = expanded / r * dw - expanded * dg / r**2 * v
    shared = tuple(i for i, n in enumerate(expanded.shape) if n == 1)
    return expanded * v / r, dv, share.sum(shared).reshape(np.shape(g))


def value_and_gradients(dw, v, g, **options):
    return step_of(weight_norm, **options)(dw, v, g)


magnitude_of = jax.jit(weight_magnitude, static_argnames="feature_axes")


@pytest.mark.parametrize(
    ("case", "epsilon"),
    matrix(itertools.product(CASES, (0.0, 0.3)), diagonal(CASES, (0.3, 0.0))),
)
def test_oracle(case, epsilon, rng):
    shape, feature_axes, g_shape = CASES[case]
    v, g, dw = draw(rng, shape, loc=0.5), draw(rng, g_shape, loc=1), draw(rng, shape)
    options = {"feature_axes": feature_axes, "epsilon": epsilon}
    actual = value_and_gradients(dw, v, g, **options)
    for value, wanted in zip(actual, oracle(dw, v, g, **options), strict=True):
        assert error(value, wanted) <= 3e-5


@pytest.mark.parametrize(
    "v_dtype, g_dtype, option, result, tolerance",
    [
        in_full(("bfloat16", "bfloat16", None, "bfloat16", 1e-2)),
        ("bfloat16", "float32", None, "float32", 1e-2),
        ("float16", "float16", None, "float16", 2e-3),
        in_full(("bfloat16", "float16", None, "float32", 1e-2)),
        in_full(("float32", "float32", "bfloat16", "bfloat16", 1e-2)),
        ("float64", "float64", None, "float64", 1e-13),
        in_full(("float64", "float32", None, "float64", 1e-6)),
        ("complex64", "float32", None, "complex64", 1e-5),
    ],
)
def test_dtypes(v_dtype, g_dtype, option, result, tolerance, rng, x64):
    v = draw(rng, (40, 5), jnp.dtype(v_dtype), loc=0.5)
    g = draw(rng, 5, jnp.dtype(g_dtype), loc=1)
    dw = draw(rng, (40, 5), jnp.dtype(result))
    w, dv, dg = value_and_gradients(dw, v, g, dtype=option)
    assert (w.dtype, dv.dtype, dg.dtype) == (result, v_dtype, g_dtype)
    for value, wanted in zip((w, dv, dg), oracle(dw, v, g), strict=True):
        assert error(value, wanted) <= tolerance


def test_half_precision_is_rounded_once(rng):
    v, g = draw(rng, (300, 5), jnp.float16, std=200), draw(rng, 5, jnp.float16)
    # 300 squares of 200 are beyond float16, and sums in it are off by percents
    expected = oracle(v, v, g)[0].astype(np.float16).astype(np.float64)
    assert error(weight_norm(v, g), expected) <= 2**-10


@pytest.mark.parametrize("size", [1e-30, 1e-18, 1e18, 1e30])
def test_lengths_whose_squares_leave_float32(size, rng):
    v, g, dw = draw(rng, (7, 5), std=size), draw(rng, 5), draw(rng, (7, 5))
    w, dv, dg = value_and_gradients(dw, v, g)
    expected_w, expected_dv, expected_dg = oracle(dw, v, g)
    assert error(w, expected_w) <= 3e-5
    assert error(wide(dv) * size, expected_dv * size) <= 3e-5
    assert error(dg, expected_dg) <= 3e-5
    assert error(wide(magnitude_of(v)) / size, oracle(v, v, g)[2] / size) <= 3e-5


@pytest.mark.parametrize("epsilon", [0.0, 1e-12])
def test_a_unit_of_zeros(epsilon, rng):
    v = np.array(draw(rng, (7, 5)))
    v[:, 2] = 0
    v = place(v)
    g, dw = draw(rng, 5, loc=1), draw(rng, (7, 5))
    w, dv, dg = value_and_gradients(dw, v, g, epsilon=epsilon)
    chex.assert_tree_all_finite((w, dv, dg))
    w, dv, dg, dw, g = map(np.asarray, (w, dv, dg, dw, g))
    np.testing.assert_array_equal(w[:, 2], 0)
    assert dg[2] == 0 and dg[1] != 0
    expected = dw[:, 2] * g[2] * 1e6 if epsilon else 0
    np.testing.assert_allclose(dv[:, 2], expected, rtol=1e-5)
    magnitudes = jax.value_and_grad(lambda v: weight_magnitude(v).sum())
    magnitudes, dv = jax.jit(magnitudes)(v)
    assert np.isfinite(magnitudes)
    np.testing.assert_array_equal(np.asarray(dv)[:, 2], 0)


def test_a_unit_that_is_not_finite_is_nan_and_no_other(rng):
    v = np.array(draw(rng, (7, 5)))
    v[3, 1:3] = np.nan, np.inf
    w = np.asarray(value_and_gradients(v, place(v), place(np.ones(5)))[0])
    np.testing.assert_array_equal(np.isnan(w).all(0), [False, True, True, False, False])
    assert np.isfinite(w[:, (0, 3, 4)]).all()


FEW = ("image", "two feature axes", "one norm")


@pytest.mark.parametrize("case", matrix(CASES, FEW))
def test_identities(case, rng):
    """||w|| = |g|; dv is orthogonal to v; the length of v does not matter."""
    shape, feature_axes, g_shape = CASES[case]
    v, g, dw = draw(rng, shape, loc=0.5), draw(rng, g_shape, loc=1), draw(rng, shape)
    axes = norm_axes(v.ndim, feature_axes)
    expanded = expand(g, axes, v.ndim)
    options = {"feature_axes": feature_axes, "epsilon": 0.0}
    w, dv, _ = value_and_gradients(dw, v, g, **options)
    lengths = np.sqrt(np.sum(wide(w) ** 2, axes, keepdims=True))
    assert error(lengths, np.broadcast_to(np.abs(expanded), lengths.shape)) <= 1e-5
    inner = np.sum(wide(v) * wide(dv), axes)
    assert np.abs(inner).max() <= 1e-5 * np.sum(np.abs(wide(v) * wide(dw)), axes).max()
    longer = place(1e3 * wide(v))
    assert error(value_and_gradients(dw, longer, g, **options)[0], w) <= 1e-5


# ---- under JAX's transformations


def plain(v, g):
    return g[None] * v / jnp.sqrt(jnp.sum(v**2, 0, keepdims=True))


# The Hessian is by both modes.
@pytest.mark.parametrize(
    "derivative", matrix(["grad", "jvp", "hessian"], often=["hessian"])
)
def test_derivatives_are_those_of_the_formula(derivative, rng, x64):
    args = draw(rng, (4, 3), np.float64), draw(rng, 3, np.float64)
    tangents = draw(rng, (4, 3), np.float64), draw(rng, 3, np.float64)
    weight = draw(rng, (4, 3), np.float64)
    functions = weight_norm, plain
    check_derivative(derivative, functions, args, tangents, weight, 1e-10)


def test_vmap_scan_and_remat(rng):
    v, g, dw = draw(rng, (6, 4, 3)), draw(rng, (6, 3), loc=1), draw(rng, (4, 3))

    def loss(v, g):
        return jnp.sum(jnp.sin(weight_norm(v, g)) * dw), ()

    check_layers(loss, (v, g), (0, 1))


def test_no_retrace(rng):
    chex.clear_trace_counter()  # it is of the whole process
    step = jax.jit(chex.assert_max_traces(weight_norm, 1))
    for _ in range(3):
        step(draw(rng, (4, 3)), draw(rng, 3))


@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("axis", matrix(range(2), often=[0]))
def test_sharded(axis, axis_type, rng):
    v, g, dw = draw(rng, (8, 4)), draw(rng, 4), draw(rng, (8, 4))
    mesh, *sharded = put_along(axis, axis_type, dw, v, g)
    with jax.set_mesh(mesh):
        actual = value_and_gradients(*sharded)
    for value, wanted in zip(actual, oracle(dw, v, g), strict=True):
        assert error(value, wanted) <= 3e-5


# ---- how it starts


@pytest.mark.parametrize("case", matrix(CASES, FEW))
def test_magnitude_preserves_the_weight(case, rng):
    shape, feature_axes, _ = CASES[case]
    w = draw(rng, shape, loc=0.5)
    g = magnitude_of(w, feature_axes=feature_axes)
    axes = norm_axes(w.ndim, feature_axes)
    assert error(g, np.sqrt(np.sum(wide(w) ** 2, axes))) <= 1e-5
    options = {"feature_axes": feature_axes, "epsilon": 0.0}
    same = value_and_gradients(w, w, g, **options)[0]
    assert error(same, w) <= 1e-5


def test_magnitude_of_half_precision_and_complex(rng):
    for dtype in (jnp.bfloat16, jnp.complex64):
        w = draw(rng, (30, 5), dtype)
        g = magnitude_of(w)
        assert g.dtype == jnp.float32
        assert error(g, np.sqrt(np.sum(np.abs(wide(w)) ** 2, 0))) <= 1e-5


@jax.jit
def layer(x, v, g, bias):
    return x @ weight_norm(v, g) + bias[None]


init = jax.jit(init_weight_norm)


def test_init_gives_mean_0_and_variance_1_in_every_layer(rng):
    """Whatever g and bias were: the paper's equation 6 is the case of 1 and 0."""
    x = draw(rng, (64, 9), loc=3, std=2)
    for size in (7, 5):
        v = draw(rng, (x.shape[1], size), std=0.05)
        g, bias = draw(rng, size, loc=2, std=0.1), draw(rng, size)
        y = layer(x, v, g, bias)
        s = wide(x) @ oracle(v, v, g)[0]
        new_g, new_bias = init(y, g, bias)
        assert error(new_g, wide(g) / s.std(0)) <= 3e-5
        assert error(new_bias, -s.mean(0) / s.std(0)) <= 3e-5
        y = wide(layer(x, v, new_g, new_bias))
        np.testing.assert_allclose(y.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(y.std(0), 1, rtol=1e-5)
        x = place(np.maximum(y, 0))


def test_init_over_space_masks_and_devices(rng, make_mask):
    y, mask = draw(rng, (4, 3, 2, 5), loc=4), make_mask("bool", (4, 3, 2, 5))
    kept, filled = (np.where(mask, wide(y), other) for other in (np.nan, 1.0))
    mean, std = np.nanmean(kept, (0, 1, 2)), np.nanstd(kept, (0, 1, 2))
    g, bias = place(np.ones(5)), place(np.zeros(5))
    together = init(place(kept), g, bias, mask=mask)
    apart = jax.vmap(
        functools.partial(init_weight_norm, axis_name="batch"),
        in_axes=(0, None, None),
        axis_name="batch",
    )
    apart = jax.device_get(jax.jit(apart)(place(filled), g, bias))
    for value, wanted in zip(together, (1 / std, -mean / std), strict=True):
        assert error(value, wanted) <= 3e-5
    assert error(apart[0][2], 1 / filled.std((0, 1, 2))) <= 3e-5


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("shape", [(1, 5), (3, 7, 11, 5)])
def test_init_leaves_the_length_of_constant_units(shape, dtype):
    constants = np.asarray([0.0, 0.1, -1e4, 1 / 3, 1e-3], dtype)
    y = place(np.broadcast_to(constants, shape), dtype)
    g, bias = init(y, place(np.full(5, 2.0)), place(np.ones(5)))
    np.testing.assert_array_equal(g, 2)
    np.testing.assert_allclose(bias, 1 - constants.astype(np.float32), rtol=1e-5)


def test_init_keeps_dtypes_and_shows_nan():
    y = place([[1.0, 2.0], [np.nan, 3.0]], jnp.bfloat16)
    g, bias = init(y, place(np.ones(2), jnp.bfloat16), place(np.zeros(2)))
    g = np.asarray(g)
    assert (g.dtype, bias.dtype) == (jnp.bfloat16, jnp.float32)
    assert np.isnan(g[0]) and g[1] == 2


# ---- bad input

v, g = place(np.ones((4, 5))), place(np.ones(5))
BAD = {
    "g of another size": (
        weight_norm,
        (v, place(np.ones(4))),
        {},
        ("g", "(4,)", "(5,)"),
    ),
    "g of one norm": (weight_norm, (v, g), {"feature_axes": None}, ("g", "()")),
    "an axis": (weight_norm, (v, g), {"feature_axes": 2}, ("feature_axes", "2")),
    "integers": (weight_norm, (place(v, np.int32), g), {}, ("v", "int32", "astype")),
    "integer g": (weight_norm, (v, place(g, np.int32)), {}, ("g", "int32", "astype")),
    "epsilon": (weight_norm, (v, g), {"epsilon": -1.0}, ("epsilon", "-1.0")),
    "dtype": (weight_norm, (v, g), {"dtype": jnp.int32}, ("dtype", "int32")),
    "magnitude of integers": (
        weight_magnitude,
        (place(v, np.int32),),
        {},
        ("w", "int32"),
    ),
    "magnitude over an axis": (weight_magnitude, (v,), {"feature_axes": -3}, ("-3",)),
    "init: g": (init_weight_norm, (v, place(np.ones(())), g), {}, ("g", "(5,)", "()")),
    "init: bias": (
        init_weight_norm,
        (v, g, place(np.ones(4))),
        {},
        ("bias", "(5,)", "(4,)"),
    ),
    "init: integers": (
        init_weight_norm,
        (place(v, np.int32), g, g),
        {},
        ("y", "int32"),
    ),
}


@pytest.mark.parametrize("how", ["arrays", "tracing"])
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, how, as_users_run_it):
    function, args, options, says = BAD[name]
    function = functools.partial(function, **options)
    with refused(*says):
        if how == "tracing":
            jax.eval_shape(function, *args)
        else:
            function(*args)
