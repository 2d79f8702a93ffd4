"""Ghost batch norm: batch norm and instance norm as its ends, and the three rules."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw, draw_stats
from support.jitted import jitted
from support.tiers import diagonal, matrix

import jaxnorm

RULES = ("pooled", "mean", "sequential")
TRAIN = {"use_running_average": False, "momentum": 0.8}
each_rule = pytest.mark.parametrize("rule", RULES)


def ghost(size, rule="pooled", mask=None, **options):
    options = TRAIN | {"virtual_batch_size": size, "stats_rule": rule} | options
    return functools.partial(jitted(jaxnorm.ghost_batch_norm, **options), mask=mask)


infer = jitted(jaxnorm.batch_norm, use_running_average=True)


@pytest.mark.parametrize(
    ("rule", "unbiased"),
    matrix(itertools.product(RULES, (True, False)), diagonal(RULES, (True, False))),
)
def test_one_ghost_is_batch_norm(rule, unbiased, rng, make_mask):
    x, stats = draw(rng, (8, 6, 5)), draw_stats(rng, 5)
    mask, options = make_mask("bool", x.shape), {"unbiased": unbiased}
    actual = ghost(8, rule, mask, **options)(x, stats)
    normalize = jitted(jaxnorm.batch_norm, **TRAIN, **options)
    expected = normalize(x, stats, mask=mask)
    chex.assert_trees_all_close(actual, expected, rtol=0, atol=1e-5)


def test_a_ghost_of_one_example_is_instance_norm(rng, make_mask):
    x, scale, bias = draw(rng, (4, 3, 8, 5)), draw(rng, 5, loc=1), draw(rng, 5)
    mask = make_mask("bool", x.shape)
    y, _ = ghost(1, mask=mask)(x, draw_stats(rng, 5), scale, bias)
    normalize = jitted(jaxnorm.instance_norm, epsilon=1e-5)
    expected = normalize(x, scale, bias, mask=mask)
    assert oracles.error(y, expected) <= 1e-5


@each_rule
def test_ghosts_do_not_see_each_other(rule, rng):
    x, stats = draw(rng, (8, 6, 5)), draw_stats(rng, 5)
    y, _ = ghost(2, rule)(x, stats)
    x = np.array(x)
    x[2:4] *= 50
    other, _ = ghost(2, rule)(x, stats)
    y, other = np.asarray(y), np.asarray(other)
    np.testing.assert_array_equal(np.delete(y, (2, 3), 0), np.delete(other, (2, 3), 0))
    assert not np.allclose(y[2:4], other[2:4], atol=1e-7)


def growing(count):
    return count / (count + 3)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("kind", [None, "bool", "examples", "empty feature"])
def test_sequential_is_one_batch_after_the_other(kind, unbiased, rng, make_mask):
    """With a momentum that depends on how many there have been."""
    x, mask = draw(rng, (8, 6, 5)), make_mask(kind, (8, 6, 5))
    stats = jaxnorm.CountedBatchStats(*draw_stats(rng, 5), jnp.float32(2))
    options = {"momentum": growing, "unbiased": unbiased}
    _, actual = ghost(2, "sequential", mask=mask, **options)(x, stats)
    expected, x = stats, np.asarray(x)
    normalize = jitted(jaxnorm.batch_norm, use_running_average=False, **options)
    for i in range(0, 8, 2):
        own = None if mask is None else np.asarray(mask)[i : i + 2]
        _, expected = normalize(x[i : i + 2], expected, mask=own)
    chex.assert_trees_all_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_what_the_rules_follow(rng):
    """Ghosts with means far apart, which is a variance that only `pooled` sees."""
    x = draw(rng, (8, 50, 5), loc=10 * np.repeat(np.arange(4), 2).reshape(8, 1, 1))
    stats = jaxnorm.init_batch_stats(5)
    stats = stats._replace(mean=stats.mean - 5e4)  # far, and of no weight
    options = {"momentum": 0.0, "use_fast_variance": False}
    new = {rule: ghost(2, rule, **options)(x, stats)[1] for rule in RULES}
    parts = np.asarray(x, float).reshape(4, -1, 5)
    wanted = {
        "pooled": (parts.mean((0, 1)), parts.var((0, 1))),
        "mean": (parts.mean((0, 1)), parts.var(1).mean(0)),
        "sequential": (parts[-1].mean(0), parts[-1].var(0)),
    }
    for rule in RULES:
        np.testing.assert_allclose(new[rule], wanted[rule], 1e-5)
    assert np.all(new["pooled"].var > 50 * np.asarray(new["mean"].var))


@each_rule
def test_the_number_of_updates(rule, rng):
    stats = jaxnorm.init_batch_stats(5, counted=True)
    mask = (np.arange(8) >= 2).reshape(8, 1)  # the first ghost is empty
    _, new = ghost(2, rule, mask=mask)(draw(rng, (8, 5)), stats)
    assert new.count == (3 if rule == "sequential" else 1)
    _, new = ghost(2, rule, mask=np.zeros((8, 1), bool))(draw(rng, (8, 5)), stats)
    chex.assert_trees_all_equal(new, stats)


def test_a_ghost_without_elements_uses_the_running_statistics(rng):
    x, stats = draw(rng, (8, 6, 5)), draw_stats(rng, 5)
    mask = (np.arange(8) >= 2).reshape(8, 1, 1)
    y, _ = ghost(2, mask=mask)(x, stats)
    expected, _ = infer(x, stats)
    assert oracles.error(np.asarray(y)[:2], np.asarray(expected)[:2]) <= 1e-6


def test_inference_asks_for_no_ghosts(rng):
    x, stats = draw(rng, (7, 5)), draw_stats(rng, 5)
    y, _ = ghost(4, use_running_average=True)(x, stats)
    expected, _ = infer(x, stats)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("size", "shards"),
    matrix(
        itertools.product((1, 4, 16), (2, 4, 8)),
        often=[(1, 2), (4, 8), (4, 4), (16, 8)],
    ),
)
def test_explicit_axes_say_how_y_is_sharded(size, shards, rng):
    """Whether ghosts are parts of a shard, or made of several."""
    x, stats = draw(rng, (16, 6, 5)), draw_stats(rng, 5)
    expected = ghost(size)(x, stats)
    mesh = jax.make_mesh((shards,), ("rows",), devices=jax.devices("cpu")[:shards])
    with jax.set_mesh(mesh):
        sharded = jax.device_put(x, jax.NamedSharding(mesh, jax.P("rows")))
        actual = ghost(size)(sharded, stats)
        assert actual[0].sharding.spec[0] == "rows"
        assert set(actual[1].mean.sharding.spec) <= {None}
    chex.assert_trees_all_close(
        jax.device_get(actual), jax.device_get(expected), rtol=0, atol=1e-5
    )
