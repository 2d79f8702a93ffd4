"""Adaptive batch norm between batch norm and instance norm."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw, draw_stats, place
from support.jitted import jitted

import jaxnorm

both = pytest.mark.parametrize("inference", [False, True])


def adaptive(x, stats, **options):
    return jitted(jaxnorm.adaptive_batch_norm, **options)(x, stats)


def plain_batch_norm(x, stats, **options):
    return jitted(jaxnorm.batch_norm, **options)(x, stats)


@both
def test_infinitely_strong_is_batch_norm(inference, rng):
    x, stats = draw(rng, (4, 9, 5)), draw_stats(rng, 5)
    x = place(np.asarray(x) * np.arange(4.0).reshape(4, 1, 1))
    options = {"use_running_average": inference}
    y, new = adaptive(x, stats, strength=np.inf, **options)
    expected, wanted = plain_batch_norm(x, stats, **options)
    assert oracles.error(y, expected) <= 1e-5
    for a, b in zip(new, wanted, strict=True):
        assert oracles.error(a, b) <= 1e-5


@both
def test_of_no_strength_is_instance_norm_with_the_unbiased_variance(inference, rng):
    x, stats = draw(rng, (4, 9, 5), loc=3), draw_stats(rng, 5)
    options = {"use_running_average": inference, "epsilon": 0.0}
    y, _ = adaptive(x, stats, strength=0.0, **options)
    expected = oracles.wide(jitted(jaxnorm.instance_norm, epsilon=0.0)(x))
    assert oracles.error(y, expected * np.sqrt(8 / 9)) <= 1e-5


def test_of_no_strength_no_example_moves_another(rng):
    """Nor where both means, and both variances, are equal: a feature of zeros."""
    weight = draw(rng, (4, 9, 5))

    def loss(x):
        stats = jaxnorm.init_batch_stats(5)
        options = {"strength": 0.0, "use_running_average": False}
        y, _ = jaxnorm.adaptive_batch_norm(x, stats, **options)
        return jnp.sum((y * weight)[0])

    gradient = jax.jit(jax.grad(loss))(jnp.zeros((4, 9, 5)))
    assert np.all(np.asarray(gradient[1:]) == 0) and np.any(gradient[0] != 0)


def test_gradients_of_infinite_strength_are_finite(rng):
    x, stats = draw(rng, (4, 9, 5)), draw_stats(rng, 5)

    def loss(x):
        options = {"strength": np.inf, "use_running_average": False}
        return jnp.sum(jaxnorm.adaptive_batch_norm(x, stats, **options)[0] ** 3)

    gradient = jax.jit(jax.grad(loss))(x)
    assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


@both
def test_examples_of_the_batch_are_left_and_a_strange_one_is_brought_back(
    inference, rng
):
    """One lies ten standard deviations away. Sampling noise is not corrected."""
    x = draw(rng, (16, 400, 3), loc=10 * (np.arange(16) == 5).reshape(16, 1, 1))
    stats = jaxnorm.init_batch_stats(3)
    options = {"use_running_average": inference}
    y, _ = adaptive(x, stats, strength=4.0, **options)
    plain, _ = plain_batch_norm(x, stats, **options)
    y, plain = np.asarray(y), np.asarray(plain)
    strange, others = np.arange(16) == 5, np.arange(16) != 5
    if inference:
        assert oracles.error(y[others], plain[others]) <= 1e-5
    assert np.mean(plain[strange]) > 3
    assert abs(np.mean(y[strange])) < 0.6 * abs(np.mean(plain[strange]))
    if inference:  # but for the threshold, 4 / sqrt(400)
        np.testing.assert_allclose(np.mean(y[strange]), 0.2, atol=0.05)


@pytest.mark.parametrize("shape", [(8, 5), (8, 1, 1, 5)])
@both
def test_one_position_has_no_statistics(shape, inference, rng):
    x, stats = draw(rng, shape), draw_stats(rng, 5)
    options = {"use_running_average": inference}
    y, _ = adaptive(x, stats, strength=0.5, **options)
    expected, _ = plain_batch_norm(x, stats, **options)
    assert oracles.error(y, expected) <= 1e-5
