"""Switchable norm: each of the three that it mixes, and the mixture."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from drawing import draw, draw_stats

import jaxnorm

SHAPE = (4, 12, 5)
ONE_HOT = 200 * jnp.eye(3)


def switchable(x, stats, means, variances, **options):
    options = {"use_running_average": False} | options
    function = functools.partial(jaxnorm.switchable_norm, **options)
    return jax.jit(function)(x, stats, means, variances)


def each_alone(x, stats, mask, **options):
    """In the order of the logits."""
    yield jaxnorm.instance_norm(x, mask=mask, epsilon=1e-5)
    yield jaxnorm.layer_norm(x, reduction_axes=(1, 2), mask=mask, epsilon=1e-5)
    options = {"use_running_average": False} | options
    yield jaxnorm.batch_norm(x, stats, mask=mask, **options)[0]


@pytest.mark.parametrize("inference", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_one_logit_chooses(masked, inference, rng, make_mask):
    x, stats = draw(rng, SHAPE, loc=1, std=2), draw_stats(rng, 5)
    mask = make_mask("bool", SHAPE) if masked else None
    options = {"mask": mask, "use_running_average": inference}
    for logits, expected in zip(ONE_HOT, each_alone(x, stats, **options), strict=True):
        y, _ = switchable(x, stats, logits, logits, **options)
        assert oracle.error(y, expected) <= 1e-5


def test_mean_and_variance_are_chosen_apart(rng):
    x, stats = draw(rng, SHAPE, loc=1, std=2), draw_stats(rng, 5)
    y, _ = switchable(x, stats, ONE_HOT[0], ONE_HOT[2], epsilon=1e-5)
    x = np.asarray(x, np.float64)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var((0, 1)) + 1e-5)
    assert oracle.error(y, expected) <= 1e-5


def test_equal_logits_are_thirds(rng):
    """Of the means and of the variances, whatever the logits are."""
    x, stats = draw(rng, SHAPE, loc=1), draw_stats(rng, 5)
    ones = jnp.ones(3)
    y, _ = switchable(x, stats, ones, 0 * ones)
    x = np.asarray(x, np.float64)
    axes = (1,), (1, 2), (0, 1)
    mean = sum(x.mean(a, keepdims=True) for a in axes) / 3
    var = sum(x.var(a, keepdims=True) for a in axes) / 3
    assert oracle.error(y, (x - mean) / np.sqrt(var + 1e-5)) <= 1e-5


def test_a_poisoned_batch_part_in_inference_shows(rng):
    """Where running statistics are used, they are not hidden."""
    x, stats = draw(rng, SHAPE), draw_stats(rng, 5)
    stats = stats._replace(mean=stats.mean.at[1].set(jnp.nan))
    y, _ = switchable(x, stats, jnp.zeros(3), jnp.zeros(3), use_running_average=True)
    assert np.all(np.isnan(y[..., 1]))
    assert np.all(np.isfinite(np.delete(y, 1, -1)))
