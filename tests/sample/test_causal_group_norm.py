"""Causal group norm: what prefixes have to be, and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.causal import OPTIONS, SHAPE, draw_mask, of_all
from support.counting import saved_for_backward
from support.drawing import draw, place
from support.jitted import jitted
from support.own_moments_beside_oracle import cases_of, check_case
from support.refusals import refused

import jaxnorm

norm = jaxnorm.causal_group_norm


@pytest.mark.parametrize("name", cases_of("causal_group_norm"))
def test_oracle(name, rng, make_mask):
    check_case(name, rng, make_mask)


def test_moments_are_those_of_the_whole_sequence(rng):
    x, mask = draw(rng, SHAPE, loc=5), np.asarray(draw_mask(rng, "weights"))
    mask = mask.astype(np.float32)
    _, moments = jitted(of_all)(x, mask)
    for group in range(2):
        features = slice(2 * group, 2 * group + 2)
        part = x[..., features], mask[..., features]
        values, weights = (oracles.wide(v).reshape(2, -1) for v in part)
        count = weights.sum(-1)
        mean = (weights * values).sum(-1) / count
        var = (weights * (values - mean[:, None]) ** 2).sum(-1) / count
        for actual, wanted in zip(moments[:3], (count, mean, var), strict=True):
            assert actual.dtype == jnp.float32
            assert oracles.error(actual[:, group], wanted) <= 1e-6


def test_the_variance_is_that_of_the_prefix():
    """Not an average of the steps' variances, about their means or that of all.

    Both have been taken for it elsewhere, and both lack some of what is between steps.
    """
    x = np.random.default_rng(0).normal(size=(1, 6, 4))
    y, _ = jitted(norm)(place(x))
    expected = oracles.causal_group_norm(x)
    assert oracles.error(y, expected) <= 1e-6

    def average(values):
        return np.cumsum(values, 1) / np.arange(1, 7).reshape(1, 6, 1)

    mean = x.mean(-1, keepdims=True)
    within = average(x.var(-1, keepdims=True))
    as_it_went = average(((x - average(mean)) ** 2).mean(-1, keepdims=True))
    for var in within, as_it_went:
        other = (x - average(mean)) / np.sqrt(var + 1e-6)
        assert np.max(np.abs(other - expected)) > 0.2


@pytest.mark.parametrize("masked", [False, True])
def test_no_step_sees_a_later_one(masked, rng):
    """To the last bit; and where later steps are not finite."""
    x = draw(rng, SHAPE, loc=3)
    mask = draw_mask(rng, "weights").astype(jnp.float32) if masked else None
    before, _ = jitted(of_all)(x, mask)
    for bad in (1e4, 1e30, np.nan, np.inf):
        after, _ = jitted(of_all)(x.at[:, 4:].set(bad), mask)
        np.testing.assert_array_equal(after[:, :4], before[:, :4])

    def early(x):
        return jnp.sum(jnp.sin(of_all(x, mask)[0][:, :4]))

    gradient = jax.jit(jax.grad(early))(x)
    assert np.any(np.asarray(gradient[:, 3])) and not np.any(np.asarray(gradient[:, 4]))


SEQUENCES = {
    "level": lambda rng, shape: rng.normal(1e4, 1, shape),
    "after silence": lambda rng, shape: np.where(
        np.arange(shape[1])[:, None] < 3, 0, rng.normal(1e4, 1, shape)
    ),
    "drift": lambda rng, shape: rng.normal(
        1e4 + 10 * np.arange(shape[1])[:, None], 1, shape
    ),
    "outlier": lambda rng, shape: rng.normal(
        np.where(np.arange(shape[1]) == 1, 1e6, 0)[:, None], 1, shape
    ),
}


@pytest.mark.parametrize("kind", SEQUENCES)
def test_large_means(kind, rng):
    """1e4 standard deviations: no digit of the output is lost, however it moves."""
    x = place(SEQUENCES[kind](rng, (2, 96, 4)))
    for groups in (1, 4):
        y, _ = jitted(norm, num_groups=groups)(x)
        expected = oracles.causal_group_norm(x, num_groups=groups)
        assert np.max(np.abs(oracles.wide(y) - expected)) <= 2e-6


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_saved_are_x_and_the_statistics_of_its_steps(groups):
    """Three numbers a step and group; none where a step is of one value, x itself."""
    shape = (4, 16, 8)
    x = jax.ShapeDtypeStruct(shape, jnp.bfloat16)
    large, rest = saved_for_backward(shape, lambda x: norm(x, num_groups=groups)[0], x)
    assert large == [jnp.bfloat16]
    statistics = 0 if groups == 8 else 3 * 4 * 16 * groups
    assert statistics <= rest <= statistics + 8


def test_steps_of_one_value_are_not_summed():
    """They are their own means; without a mask, their count is known."""
    x = jax.ShapeDtypeStruct((4, 16, 8), jnp.float32)
    for groups, summed in ((8, False), (4, True)):
        jaxpr = jax.make_jaxpr(functools.partial(norm, num_groups=groups))(x)
        assert ("reduce_sum" in str(jaxpr)) is summed


def test_until_something_counts_it_is_the_bias(rng):
    """And has no gradient; padding after that leaves the moments as they are."""
    x = draw(rng, SHAPE, loc=3)
    mask = np.ones((2, 6, 1, 1), bool)
    mask[0, :3] = mask[1, 4:] = False
    x = jnp.where(mask, x, jnp.nan)
    scale, bias = draw(rng, 4, loc=1), draw(rng, 4)

    @jax.jit
    def run(x, scale, bias):
        def loss(x, scale, bias):
            y, moments = norm(x, None, scale, bias, mask=mask, **OPTIONS)
            return jnp.sum(y**2), (y, moments)

        return jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)

    gradients, (y, moments) = run(x, scale, bias)
    np.testing.assert_array_equal(y[0, :3], np.broadcast_to(bias, (3, 3, 4)))
    assert all(np.all(np.isfinite(g)) for g in gradients)
    assert not np.any(np.asarray(gradients[0])[~np.broadcast_to(mask, SHAPE)])
    _, shorter = jitted(of_all)(x[1:, :4], None)
    for value, wanted in zip(moments, shorter, strict=True):
        np.testing.assert_allclose(value[1:], wanted, rtol=1e-6, atol=1e-6)
    _, same = jitted(of_all)(x[1:, 4:], mask[1:, 4:], shorter)
    jax.tree.map(np.testing.assert_array_equal, same, shorter)
    _, same = jitted(of_all)(x[1:, :0], None, shorter)  # a chunk without a step
    jax.tree.map(np.testing.assert_array_equal, same, shorter)


def test_one_sequence_under_vmap_is_as_in_the_batch(rng):
    x = draw(rng, SHAPE)
    expected = jitted(of_all)(x, None)
    alone = functools.partial(norm, time_axis=0, reduction_axes=(1, 2), **OPTIONS)
    actual = jax.jit(jax.vmap(alone))(x)
    for value, wanted in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)


X = jnp.ones((4, 6, 3))
MOMENTS = jaxnorm.init_running_moments((4, 1))
BAD = {
    "no such time": ({"time_axis": 3}, ("time_axis", "3", "rank 3")),
    "several times": ({"time_axis": (0, 1)}, ("time_axis", "one axis")),
    "time is the feature": ({"time_axis": 2}, ("time_axis", "feature axis", "2")),
    "sequences without features": (
        {"x": X[..., 0]},
        ("time_axis", "feature axis", "x[..., None]"),
    ),
    "time is reduced": (
        {"reduction_axes": (1, 2)},
        ("reduction_axes", "time_axis=1", "group_norm"),
    ),
    "time is first": (
        {"time_axis": 0},
        ("reduction_axes", "time_axis=0", "rank 3", "reduction_axes=(1, 2)"),
    ),
    "moments of a batch": (
        {"moments": jaxnorm.Moments(*MOMENTS[:3])},
        ("moments", "RunningMoments", "init_running_moments((4, 1))"),
    ),
    "moments of features": (
        {"moments": jaxnorm.init_running_moments(3)},
        ("moments", "(4, 1)", "(3,)", "(4, 6, 3)", "init_running_moments((4, 1))"),
    ),
    "moments of other groups": (
        {"moments": MOMENTS, "num_groups": 3},
        ("moments", "(4, 3)", "(4, 1)"),
    ),
    "complex moments": (
        {"moments": MOMENTS._replace(mean=MOMENTS.mean.astype(jnp.complex64))},
        ("moments.mean", "real", "complex64"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_run_it):
    bad, says = BAD[case]
    with refused(*says):
        norm(**{"x": X} | bad)
