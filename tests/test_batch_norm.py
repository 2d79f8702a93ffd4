"""Batch normalization on one device against the oracle: values and gradients."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw, draw_stats, place
from support.tiers import matrix

import jaxnorm

CASES = {  # shape, feature axes, mask, shapes of scale and bias
    "dense": ((8, 5), -1, None, (5,), (5,)),
    "no affine part": ((8, 5), -1, "bool", None, None),
    "scale only": ((8, 5), -1, None, (5,), None),
    "bias only": ((8, 5), -1, "bool", None, (5,)),
    "image": ((4, 3, 2, 5), -1, "bool", (5,), (5,)),
    "channels first": ((4, 5, 3, 2), 1, "integer", (5,), (5,)),
    "two feature axes": ((4, 3, 5, 2), (3, 1), "weights", (3, 2), (3, 2)),
    "shared, of full rank": ((4, 3, 5), 2, "weights", (1, 1, 5), (1, 1, 1)),
    "per example": ((4, 3, 5), -1, "bool", (4, 1, 5), (4, 1, 1)),
    "per element": ((4, 3, 5), -1, "weights", (4, 3, 5), (5,)),
    "mask of examples": ((4, 3, 5), -1, "examples", (5,), (4, 1, 5)),
    "mask of lower rank": ((4, 6, 5), -1, "lower rank", (5,), (5,)),
    "a feature without elements": ((4, 3, 5), -1, "empty feature", (5,), (5,)),
    "nothing but masked": ((4, 3, 5), -1, "empty", (4, 1, 5), (5,)),
    "one element": ((1, 5), -1, None, (5,), (5,)),
    "nothing to reduce": ((5,), 0, None, (5,), (5,)),
}
train = functools.partial(jaxnorm.batch_norm, use_running_average=False)
train_jitted = jax.jit(train)
train_guarded = jax.jit(functools.partial(train, skip_nonfinite=True))
cold = jaxnorm.init_batch_stats


@functools.cache
def jitted(**options):
    """One program for all cases of the same options, shapes and dtypes."""

    @jax.jit
    def step(x, stats, scale, bias, mask, weight):
        def loss(x, scale, bias):
            y, new = jaxnorm.batch_norm(x, stats, scale, bias, mask=mask, **options)
            return jnp.sum(jnp.real(jnp.conj(weight) * y)), (y, new)

        gradients, aux = jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)
        return *aux, jax.tree.map(jnp.conj, gradients)

    return step


def check(x, stats, scale, bias, weight, tolerance, momentum=0.9, **options):
    """Compare y, statistics and gradients of sum(Re(conj(weight) y)); return y."""
    options = {"use_running_average": False} | options
    static = {"momentum": momentum} | options
    mask = static.pop("mask", None)
    step = jitted(**static)
    results = step(x, stats, scale, bias, mask, weight)
    y, new, gradients = jax.device_get(results)
    actual = (y, new.mean, new.var, *gradients)
    reference = {k: v for k, v in options.items() if k not in ("unbiased", "dtype")}
    expected = oracles.batch_norm_gradients(weight, x, *stats, scale, bias, **reference)
    if "unbiased" in options:
        reference["unbiased"] = options["unbiased"]
    expected = (
        *oracles.batch_norm(x, *stats, scale, bias, momentum=momentum, **reference),
        *expected,
    )
    names = ("y", "mean", "var", "dx", "dscale", "dbias")
    for name, value, wanted in zip(names, actual, expected, strict=True):
        if wanted is None:
            assert value is None
        else:
            assert oracles.error(value, wanted) <= tolerance, name
    chex.assert_trees_all_equal_dtypes(gradients, (x, scale, bias))
    return y, new


OFTEN = [
    ("dense", False),
    ("bias only", False),
    ("channels first", False),
    ("two feature axes", False),
    ("shared, of full rank", False),
    ("per element", False),
    ("mask of lower rank", False),
    ("a feature without elements", False),
    ("nothing but masked", False),
    ("nothing to reduce", False),
    ("scale only", True),
    ("no affine part", True),
    ("image", True),
    ("per example", True),
    ("mask of examples", True),
    ("one element", True),
]


@pytest.mark.parametrize(
    ("name", "inference"), matrix(itertools.product(CASES, (False, True)), OFTEN)
)
def test_oracle(name, inference, rng, make_mask):
    shape, feature_axes, mask, scale, bias = CASES[name]
    feature_shape = tuple(np.take(shape, np.sort(np.atleast_1d(feature_axes))))
    check(
        draw(rng, shape, loc=0.5, std=2),
        draw_stats(rng, feature_shape),
        draw(rng, scale, loc=1),
        draw(rng, bias),
        draw(rng, shape),
        1e-5,
        epsilon=0.03,
        use_running_average=inference,
        feature_axes=feature_axes,
        mask=make_mask(mask, shape),
    )


DTYPES = [
    ("bfloat16", "bfloat16", "float32", None, "bfloat16", 1e-2),
    ("bfloat16", "float32", "float32", None, "float32", 1e-2),
    ("float32", "bfloat16", "float32", None, "float32", 1e-2),
    ("float32", "float32", "float32", "bfloat16", "bfloat16", 1e-2),
    ("float32", "float32", "float32", "float64", "float64", 1e-5),
    ("bfloat16", "float32", "bfloat16", "float16", "float16", 1e-2),
    ("float16", "float16", "float32", None, "float16", 2e-3),
    ("float16", "bfloat16", "float32", None, "float32", 1e-2),
    ("float64", "float64", "float64", None, "float64", 1e-12),
    ("float64", "float32", "float32", None, "float64", 1e-6),
    ("complex64", "float32", "complex", None, "complex64", 1e-5),
    ("complex64", "complex64", "complex", None, "complex64", 1e-5),
    ("float32", "complex64", "float32", None, "complex64", 1e-5),
    ("complex64", "float32", "float32", "complex128", "complex128", 1e-5),
]
# Rows in which each dtype of each column occurs, some of them in inference.
OFTEN_DTYPES = [
    *((row, False) for row in (0, 4, 6, 8, 12, 13)),
    *((row, True) for row in (2, 5, 10)),
]


@pytest.mark.parametrize(
    ("row", "inference"),
    matrix(
        itertools.product(range(len(DTYPES)), (False, True)),
        often=OFTEN_DTYPES,
    ),
    ids=str,
)
def test_dtypes(row, inference, rng, make_mask, x64):
    dtype, affine, stats, option, output, tolerance = DTYPES[row]
    stats_dtype = jnp.dtype("float32" if stats == "complex" else stats)
    running = draw_stats(rng, 5, stats_dtype)
    if stats == "complex":
        running = running._replace(mean=draw(rng, 5, jnp.complex64))
    y, new = check(
        draw(rng, (16, 3, 5), jnp.dtype(dtype), loc=0.5, std=2),
        running,
        draw(rng, 5, jnp.dtype(affine), loc=1),
        draw(rng, 5, jnp.dtype(affine)),
        draw(rng, (16, 3, 5), jnp.dtype(output)),
        tolerance,
        use_running_average=inference,
        mask=make_mask("bool", (16, 3, 5)),
        dtype=option and jnp.dtype(option),
    )
    assert y.dtype == output
    assert new.var.dtype == stats_dtype
    complex_mean = dtype == "complex64" and (not inference or stats == "complex")
    assert new.mean.dtype == ("complex64" if complex_mean else stats_dtype)


@pytest.mark.parametrize("name", ["image", "two feature axes", "per example"])
def test_moments_and_normalize_by_hand(name, rng, make_mask):
    """The two public halves, under plain differentiation, are the same function."""
    shape, feature_axes, mask, *affine = CASES[name]
    mask = make_mask(mask, shape)
    x, scale, bias = arguments = [draw(rng, s) for s in (shape, *affine)]
    weight = draw(rng, shape)

    @jax.jit
    def step(*arguments):
        def by_hand(x, scale, bias):
            _, mean, var = jaxnorm.batch_moments(
                x, feature_axes=feature_axes, mask=mask
            )
            y = jaxnorm.normalize(
                x, mean, var, scale, bias, epsilon=0.03, feature_axes=feature_axes
            )
            return jnp.sum(y * weight), y

        return jax.grad(by_hand, (0, 1, 2), has_aux=True)(*arguments)

    gradients, y = step(*arguments)
    _, mean, var = oracles.moments(x, feature_axes=feature_axes, mask=mask)
    options = {"epsilon": 0.03, "feature_axes": feature_axes, "mask": mask}
    expected = oracles.batch_norm(x, mean, var, scale, bias, **options)[0]
    assert oracles.error(y, expected) <= 1e-5
    expected = oracles.batch_norm_gradients(
        weight, x, mean, var, scale, bias, **options
    )
    for actual, wanted in zip(gradients, expected, strict=True):
        assert oracles.error(actual, wanted) <= 1e-5


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("used", ["all", "valid"])
@pytest.mark.parametrize("kind", ["bool", "weights", "empty feature"])
def test_not_finite_under_the_mask(kind, used, inference, rng, make_mask):
    """It comes out as the bias and is a constant: its cotangent reaches no x."""
    mask = np.broadcast_to(make_mask(kind, (6, 4, 5)), (6, 4, 5))
    bad = rng.choice([np.nan, np.inf, -np.inf, 2.0], mask.shape)
    hit = (mask == 0) & ~np.isfinite(bad)
    weight, bias = draw(rng, mask.shape), draw(rng, 5)
    y, _ = check(
        place(np.where(hit, bad, draw(rng, mask.shape, loc=2))),
        draw_stats(rng, 5),
        draw(rng, 5, loc=1),
        bias,
        weight if used == "all" else place(np.where(mask != 0, weight, 0)),
        1e-5,
        mask=jax.device_put(mask),
        use_running_average=inference,
    )
    np.testing.assert_array_equal(y[hit], np.broadcast_to(bias, y.shape)[hit])


@pytest.mark.parametrize("order", [1, 2])
def test_a_loss_that_selects_has_clean_gradients(order, rng, make_mask):
    mask = make_mask("bool", (8, 5))
    x = place(np.where(mask, draw(rng, (8, 5)), np.nan))

    def loss(*args):
        y, _ = train(args[0], cold((5,)), *args[1:], mask=mask)
        return jnp.sum(jnp.where(mask, y, 0) ** 3)

    for _ in range(order):  # the second time, of the sum of the squared gradients
        gradient = jax.grad(loss, (0, 1, 2))
        loss = functools.partial(
            lambda g, *args: sum(jnp.sum(v**2) for v in g(*args)), gradient
        )
    results = jax.jit(gradient)(x, place(np.full(5, 2.0)), place(np.ones(5)))
    dx, *rest = jax.device_get(results)
    assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in (dx, *rest))
    np.testing.assert_array_equal(dx[~np.asarray(mask)], 0)


@pytest.mark.parametrize(
    "kind", [None, "bool", "integer", "empty feature", "one", "one without a mask"]
)
def test_unbiased(kind, rng, make_mask):
    shape = (1, 1, 5) if kind == "one without a mask" else (2, 6, 5)
    x, weight = draw(rng, shape, loc=1), draw(rng, shape)
    if kind == "one without a mask":
        mask = None
    elif kind == "one":
        mask = np.zeros((2, 6, 1), bool)
        mask[1, 2] = True
    else:
        mask = make_mask(kind, x.shape)
    stats = draw_stats(rng, 5)
    options = {"mask": mask, "unbiased": True, "epsilon": 1.0}
    check(x, stats, None, None, weight, 1e-5, **options)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 3.0])
def test_skip_nonfinite(value, counted, rng):
    """One bad feature keeps the statistics of the whole layer as they were."""
    stats = cold((5,), counted=counted)
    x = np.array(draw(rng, (8, 5)))
    x[2, 3] = value  # 1e30: the variance overflows
    y, moved = train_jitted(x, stats)
    guarded, new = train_guarded(x, stats)
    # Another program may round in another way.
    np.testing.assert_allclose(guarded, y, rtol=1e-5, atol=1e-6)
    if value == 3.0:
        chex.assert_trees_all_close(new, moved, rtol=1e-5, atol=1e-6)
    else:
        chex.assert_trees_all_equal(new, stats)
