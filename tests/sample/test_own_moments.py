"""Per-example normalizers on one device against the oracle: values and gradients."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import directional
from support.drawing import draw, place
from support.own_moments import CASES, PLAIN, WHOLE, Case
from support.tiers import matrix

most_in_full = pytest.mark.parametrize("name", matrix(PLAIN, often=["layer", "group"]))


def derivative(f, arguments, directions):
    """By differences of the fourth order; rounding leaves some twelve digits."""
    near, far = (directional(f, arguments, directions, h) for h in (1e-3, 2e-3))
    return (4 * near - far) / 3


def check(case, x, scale, bias, rng, tolerance, mask=None, **options):
    """Compare y, and the gradients of a random sum of it in random directions."""
    weight = draw(rng, case.shape, options.get("dtype") or jnp.result_type(x))
    arguments = (x, scale, bias)
    step = jitted(case.norm, tuple((case.options | options).items()))
    gradients, y = jax.device_get(step(*arguments, mask, weight))
    reference = case.oracle(mask=mask)
    assert oracles.error(y, reference(*arguments)) <= tolerance

    def loss(*arguments):
        return np.sum(np.real(np.conj(oracles.wide(weight)) * reference(*arguments)))

    for i, (argument, gradient) in enumerate(zip(arguments, gradients, strict=True)):
        if argument is None:
            assert gradient is None
            continue
        assert gradient.dtype == argument.dtype
        gradient = oracles.wide(gradient)
        for _ in range(3):
            direction = rng.normal(size=argument.shape)
            if np.iscomplexobj(gradient):
                direction = direction + 1j * rng.normal(size=argument.shape)
            directions = [None] * 3
            directions[i] = direction
            expected = derivative(loss, arguments, directions)
            actual = np.sum(np.real(gradient * direction))
            # 0.1: what an element of weight is multiplied by at least
            size = max(np.linalg.norm(gradient), 0.1 * np.linalg.norm(weight))
            assert abs(actual - expected) <= tolerance * size, ("x", "scale", "bias")[i]
    return y, gradients


@functools.cache
def jitted(norm, options):
    """One program for all cases of the same shapes, dtypes and options."""

    @jax.jit
    def step(x, scale, bias, mask, weight):
        ours = Case(norm, x.shape, None, None, options=dict(options)).ours(mask=mask)

        def loss(x, scale, bias):
            y = ours(x, scale, bias)
            return jnp.sum(jnp.real(jnp.conj(weight.astype(y.dtype)) * y)), y

        return jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)

    return step


def hide(x, mask, rng, share=0.5):
    """x with numbers that are not finite in some places under the mask."""
    if mask is None:
        return x
    hit = (np.broadcast_to(mask, x.shape) == 0) & (rng.uniform(size=x.shape) < share)
    bad = rng.choice([np.nan, np.inf, -np.inf], x.shape)
    return place(np.where(hit, bad, x), x.dtype)


OFTEN = [
    "rms",
    "layer, offset",
    "layer, space too",
    "layer, parameters of two axes",
    "layer, scale of each element",
    "layer, mask of lower rank",
    "layer, nothing but masked",
    "rms, adaptive, space too",
    "rms, offset",
    "group, size",
    "group, channels first",
    "group, batch too",
    "group, mask that the features share",
    "group, of one feature, empty",
    "instance, two feature axes",
    "instance, no space",
    "instance, examples masked",
    "causal",
    "causal, of one group, adaptive",
    "causal, images, size, offset",
    "causal, examples masked",
]


@pytest.mark.parametrize("name", matrix(CASES, OFTEN))
def test_oracle(name, rng, make_mask):
    case = CASES[name]
    mask = make_mask(case.mask, case.shape)
    check(
        case,
        hide(draw(rng, case.shape, loc=0.5, std=2), mask, rng),
        draw(rng, case.scale, loc=1),
        draw(rng, case.bias),
        rng,
        3e-5,
        mask=mask,
    )


DTYPES = {
    "bfloat16": ("bfloat16", None, "bfloat16", 1e-2),
    "float16": ("float32", "float32", "float32", 2e-3),
    "float64": ("float64", None, "float64", 1e-10),
    "complex64": ("complex64", None, "complex64", 3e-5),
}


@pytest.mark.parametrize(
    "name, row",
    matrix(
        itertools.product(PLAIN, DTYPES),
        often=[
            ("layer", "bfloat16"),
            ("layer", "complex64"),
            ("rms", "complex64"),
            ("group", "float16"),
            ("causal", "float64"),
            ("instance", "float64"),
        ],
    ),
)
def test_dtypes(name, row, rng, make_mask, x64):
    case, (affine, option, output, tolerance) = PLAIN[name], DTYPES[row]
    y, _ = check(
        case,
        draw(rng, case.shape, jnp.dtype(row), loc=0.5, std=2),
        draw(rng, case.scale, jnp.dtype(affine), loc=1),
        draw(rng, case.bias, jnp.dtype(affine)),
        rng,
        tolerance,
        mask=make_mask("weights", case.shape),
        dtype=option and jnp.dtype(option),
    )
    assert y.dtype == output


@pytest.mark.parametrize("name", PLAIN)
def test_large_offsets(name, rng):
    case = WHOLE[name]._replace(shape=(4, 8, 6))
    case = case._replace(scale=(6,), bias=case.bias and (6,))
    norm = jax.jit(case.ours(epsilon=1e-6))
    for ratio in (0, 1, 1e2, 1e4):
        # each example with its own size, and its own offset
        std = np.geomspace(0.1, 10, 4).reshape(-1, 1, 1)
        mean = ratio * std * np.resize([1, -1], std.shape)
        x = draw(rng, case.shape, loc=mean, std=std)
        expected = case.oracle(epsilon=1e-6)(x)
        assert np.max(np.abs(oracles.wide(norm(x)) - expected)) <= 1e-5, ratio


@most_in_full
def test_gradients_at_large_offsets(name, rng):
    case = PLAIN[name]
    x = draw(rng, case.shape, loc=1e4)
    check(case, x, draw(rng, case.scale), draw(rng, case.bias), rng, 3e-5)


@most_in_full
def test_what_has_no_valid_element_comes_out_as_the_bias(name, rng):
    case = PLAIN[name]
    mask = np.ones(case.shape, bool)
    mask[2] = False
    x = np.where(mask, draw(rng, case.shape, loc=3), np.float32(np.nan))
    x[2, 0] = 7.0
    scale, bias = draw(rng, case.scale, loc=1), draw(rng, case.bias)
    norm = case.ours(mask=jnp.asarray(mask))

    def loss(x, scale, bias):
        return jnp.sum(norm(x, scale, bias) ** 3)

    def twice(*args):  # the sum of the squared gradients
        return sum(jnp.sum(v**2) for v in jax.tree.leaves(first(*args)))

    first = jax.grad(loss, (0, 1, 2))

    @jax.jit
    def run(*args):
        return norm(*args), first(*args), jax.grad(twice, (0, 1, 2))(*args)

    y, *both = jax.device_get(run(x, scale, bias))
    np.testing.assert_array_equal(
        y[2], np.broadcast_to(0 if bias is None else bias, y[2].shape)
    )
    for gradients in both:
        assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(gradients))
        np.testing.assert_array_equal(gradients[0][2], 0)
        assert np.all(gradients[0][0] != 0)


@pytest.mark.parametrize("name", [n for n in CASES if "offset" in n])
def test_scale_offset_is_added_before_rounding(name, rng):
    """Of a scale in float16, next to 0: with 1 it would be near 1.

    In bfloat16 XLA may add in float32 by itself.
    """
    case = CASES[name]
    x, scale = draw(rng, case.shape), draw(rng, case.scale, jnp.float16, std=1e-3)
    y = jax.jit(case.ours())(x, scale)
    assert oracles.error(y, case.oracle()(x, scale)) <= 1e-5


def test_unequal_weights_are_not_members(rng):
    """Which a test against Flax could not see: it makes booleans of them."""
    x = draw(rng, (4, 6))
    weights = np.square(draw(rng, (4, 6)))
    case = PLAIN["layer"]
    run = jax.jit(lambda x, *masks: [case.ours(mask=m)(x) for m in masks])
    y, members = jax.device_get(run(x, weights, weights > 0))
    assert np.max(np.abs(y - members)) > 0.1
