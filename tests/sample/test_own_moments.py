"""What norms of each example by their moments have in common, on one device."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw
from support.own_moments import CASES, PLAIN, WHOLE
from support.own_moments_beside_oracle import check
from support.tiers import matrix

most_in_full = pytest.mark.parametrize("name", matrix(PLAIN, often=["layer", "group"]))


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
    norm = case.ours(mask=jax.device_put(mask))

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
