"""Batch renormalization: batch norm, inference and Keras as its limits; schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw, draw_stats, place
from support.jitted import jitted

import jaxnorm

SHAPE = (8, 6, 5)


@pytest.fixture
def stats(rng):
    return jaxnorm.RenormStats(*draw_stats(rng, 5), place(4.0))


def renorm(x, stats, scale=None, bias=None, mask=None, **options):
    options = {"use_running_average": False, "r_max": 3.0, "d_max": 5.0} | options
    function = jitted(jaxnorm.batch_renorm, **options)
    return function(x, stats, scale, bias, mask=mask)


def test_without_corrections_it_is_batch_norm(rng, stats, make_mask):
    arguments = draw(rng, SHAPE, loc=1), draw(rng, 5, loc=1), draw(rng, 5)
    mask, weight = make_mask("bool", SHAPE), draw(rng, SHAPE)
    running = jaxnorm.BatchStats(stats.mean, stats.std)

    def renormalized(x, scale, bias):
        y, _ = renorm(x, stats, scale, bias, mask=mask, r_max=1.0, d_max=0.0)
        return jnp.sum(weight * y), y

    def normalized(x, scale, bias):
        y, _ = jaxnorm.batch_norm(
            x, running, scale, bias, mask=mask, use_running_average=False
        )
        return jnp.sum(weight * y), y

    actual, expected = (
        jax.jit(jax.grad(f, (0, 1, 2), has_aux=True))(*arguments)
        for f in (renormalized, normalized)
    )
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert oracles.error(a, b) <= 1e-5


def test_where_nothing_is_clipped_it_is_inference(rng, stats):
    x, scale, bias = draw(rng, SHAPE, loc=1), draw(rng, 5, loc=1), draw(rng, 5)
    y, new = renorm(x, stats, scale, bias, r_max=100.0, d_max=100.0)
    expected, _ = renorm(x, stats, scale, bias, use_running_average=True)
    assert oracles.error(y, expected) <= 1e-5
    assert new.count == 5
    assert not np.any(np.asarray(new.mean) == stats.mean)


def test_corrections_carry_no_gradient_where_nothing_is_clipped(rng, stats):
    """So a shift of the whole batch, which moves y, has none."""
    x, weight = draw(rng, SHAPE), draw(rng, SHAPE)

    @jax.jit
    def loss(shift):
        y, _ = renorm(x + shift, stats, r_max=100.0, d_max=100.0)
        return jnp.sum(weight * y)

    moved = abs(float(loss(jnp.float32(0.5))) - float(loss(jnp.float32(0))))
    assert moved > 0.1
    assert abs(jax.jit(jax.grad(loss))(jnp.float32(0))) <= 1e-4


def test_warmup_renorm():
    r_max, d_max = jaxnorm.warmup_renorm()
    for update, r, d in [
        (0, 1, 0),
        (5_000, 1, 0),
        (10_000, 1 + 2 * 5 / 35, 1.25),
        (25_000, 1 + 2 * 20 / 35, 5),
        (40_000, 3, 5),
        (1e6, 3, 5),
    ]:
        np.testing.assert_allclose((r_max(update), d_max(update)), (r, d), 1e-6)
    assert jaxnorm.warmup_renorm() == (r_max, d_max)  # so that nothing retraces
    assert jaxnorm.warmup_renorm(2.0) != (r_max, d_max)


def test_bounds_and_momentum_follow_the_count_in_the_state(rng):
    traces = []

    def momentum(count):
        traces.append(count)
        return jnp.where(count < 1, 0.0, 0.5)

    options = {
        "momentum": momentum,
        "r_max": lambda count: 1 + count,
        "d_max": lambda count: count / 10,
    }
    step = jax.jit(lambda x, stats: renorm(x, stats, **options))
    stats = jaxnorm.init_renorm_stats(5)
    for count in (0, 1, 2):
        x = draw(rng, SHAPE, loc=count, std=1 + count)
        fixed = {"r_max": 1.0 + count, "d_max": count / 10, "momentum": count and 0.5}
        y, new = step(x, stats)
        expected, wanted = renorm(x, stats, **fixed)
        assert oracles.error(y, expected) <= 1e-5
        for a, b in zip(new, wanted, strict=True):
            assert oracles.error(a, b) <= 1e-5
        assert new.count == count + 1
        stats = new
    assert len(traces) == 1


def test_an_update_that_sees_no_element_is_not_counted(rng, stats):
    x, mask = draw(rng, SHAPE), jax.device_put(np.zeros(SHAPE, bool))
    _, new = renorm(x, stats, mask=mask)
    assert new.count == stats.count
    np.testing.assert_allclose(new.std, stats.std, 1e-6)


def test_a_std_below_that_of_no_variance_is_raised_to_it(rng):
    """As Keras does it, so that r is bounded where a running std has died."""
    stats = jaxnorm.init_renorm_stats(5)._replace(std=place(np.zeros(5)))
    x = draw(rng, SHAPE)
    y, _ = renorm(x, stats, use_running_average=True, epsilon=0.04)
    assert oracles.error(y, np.asarray(x) / 0.2) <= 1e-5


def keras_renorm(x, mean, std, *, momentum, r_max, d_max, epsilon):
    """y, and Keras's renorm_mean, renorm_stddev, moving_mean and moving_variance.

    With equal momenta and starts its two sets of averages are one: the moving variance
    is that of the moving deviation without epsilon.
    """
    batch_mean, batch_var = x.mean((0, 1)), x.var((0, 1))
    batch_std = np.sqrt(batch_var + epsilon)
    safe = np.maximum(std, np.sqrt(epsilon))
    r = np.clip(batch_std / safe, 1 / r_max, r_max)
    d = np.clip((batch_mean - mean) / safe, -d_max, d_max)
    y = (x - batch_mean) / batch_std * r + d
    mean = momentum * mean + (1 - momentum) * batch_mean
    std = momentum * std + (1 - momentum) * batch_std
    return y, mean, std, mean, np.maximum(std**2 - epsilon, 0)


def test_keras(rng, x64):
    """Over five steps, and in inference with what they leave."""
    options = {"momentum": 0.7, "r_max": 1.2, "d_max": 0.3, "epsilon": 1e-2}
    stats = jaxnorm.RenormStats(jnp.zeros(5), jnp.ones(5), jnp.float32(0))
    mean, std = np.zeros(5), np.ones(5)
    for _ in range(5):
        x = rng.normal([0.5, -0.5, 0.5, -0.5, 0], 2, SHAPE)  # d is clipped both ways
        y, stats = renorm(jax.device_put(x), stats, **options)
        expected, mean, std, moving_mean, moving_var = keras_renorm(
            x, mean, std, **options
        )
        np.testing.assert_allclose(y, expected, 0, 1e-11)
        np.testing.assert_allclose(stats[:2], (mean, std), 0, 1e-12)
    y, _ = renorm(jax.device_put(x), stats, use_running_average=True, **options)
    expected = (x - moving_mean) / np.sqrt(moving_var + options["epsilon"])
    np.testing.assert_allclose(y, expected, 0, 1e-11)
