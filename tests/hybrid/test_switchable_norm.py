"""Switchable norm: each of the three that it mixes, and the mixture."""

import itertools

import numpy as np
import oracles
import pytest
from support.drawing import draw, draw_stats, place
from support.jitted import jitted
from support.tiers import matrix

import jaxnorm

SHAPE = (4, 12, 5)
ONE_HOT = 200 * np.eye(3, dtype=np.float32)


def switchable(x, stats, means, variances, mask=None, **options):
    options = {"use_running_average": False} | options
    logits = place(means), place(variances)
    return jitted(jaxnorm.switchable_norm, **options)(x, stats, *logits, mask=mask)


def each_alone(x, stats, mask, **options):
    """In the order of the logits."""
    layer = {"reduction_axes": (1, 2), "epsilon": 1e-5}
    yield jitted(jaxnorm.instance_norm, epsilon=1e-5)(x, mask=mask)
    yield jitted(jaxnorm.layer_norm, **layer)(x, mask=mask)
    options = {"use_running_average": False} | options
    yield jitted(jaxnorm.batch_norm, **options)(x, stats, mask=mask)[0]


@pytest.mark.parametrize(
    ("masked", "inference"),
    matrix(
        itertools.product((True, False), (True, False)),
        often=[(True, False), (False, True)],
    ),
)
def test_one_logit_chooses(masked, inference, rng, make_mask):
    x, stats = draw(rng, SHAPE, loc=1, std=2), draw_stats(rng, 5)
    mask = make_mask("bool", SHAPE) if masked else None
    options = {"mask": mask, "use_running_average": inference}
    for logits, expected in zip(ONE_HOT, each_alone(x, stats, **options), strict=True):
        y, _ = switchable(x, stats, logits, logits, **options)
        assert oracles.error(y, expected) <= 1e-5


def test_mean_and_variance_are_chosen_apart(rng):
    x, stats = draw(rng, SHAPE, loc=1, std=2), draw_stats(rng, 5)
    y, _ = switchable(x, stats, ONE_HOT[0], ONE_HOT[2], epsilon=1e-5)
    x = np.asarray(x, np.float64)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var((0, 1)) + 1e-5)
    assert oracles.error(y, expected) <= 1e-5


def test_equal_logits_are_thirds(rng):
    """Of the means and of the variances, whatever the logits are."""
    x, stats = draw(rng, SHAPE, loc=1), draw_stats(rng, 5)
    ones = np.ones(3)
    y, _ = switchable(x, stats, ones, 0 * ones)
    x = np.asarray(x, np.float64)
    axes = (1,), (1, 2), (0, 1)
    mean = sum(x.mean(a, keepdims=True) for a in axes) / 3
    var = sum(x.var(a, keepdims=True) for a in axes) / 3
    assert oracles.error(y, (x - mean) / np.sqrt(var + 1e-5)) <= 1e-5


def test_a_poisoned_batch_part_in_inference_shows(rng):
    """Where running statistics are used, they are not hidden."""
    x, stats = draw(rng, SHAPE), draw_stats(rng, 5)
    mean = place(np.where(np.arange(5) == 1, np.nan, stats.mean))
    stats, zeros = stats._replace(mean=mean), np.zeros(3)
    y, _ = switchable(x, stats, zeros, zeros, use_running_average=True)
    y = np.asarray(y)
    assert np.all(np.isnan(y[..., 1]))
    assert np.all(np.isfinite(np.delete(y, 1, -1)))
