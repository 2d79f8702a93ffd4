"""The running statistics of the batch family: what guards them, and what they guard."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.batch_family import FAMILY, KINDS, Normalizer
from support.drawing import draw, place
from support.tiers import matrix

import jaxnorm

SHAPE = (8, 10, 5)
each = pytest.mark.parametrize("name", matrix(FAMILY, often=KINDS))
# Those that carry a mean with which the running one has to do.
SHIFTED = [name for name in FAMILY if name != "evo"]


def run(normalizer, x, state, params, **options):
    return jax.jit(normalizer.ours(**options))(x, None, state, *params)


def problem(name, rng):
    normalizer = FAMILY[name]
    return normalizer, normalizer.draw_state(rng), normalizer.draw_params(rng)


@each
def test_skip_nonfinite(name, rng):
    """One bad element keeps the state of the whole layer; y is what it was."""
    normalizer, state, params = problem(name, rng)
    x = draw(rng, SHAPE, loc=0.5)
    bad = np.array(x)
    bad[2, 3, 4] = np.inf
    results = {}
    for guard in (True, False):
        step = jax.jit(normalizer.ours(skip_nonfinite=guard))
        results[guard] = [
            jax.tree.leaves(step(value, None, state, *params)) for value in (x, bad)
        ]
    good, kept = results[True]
    # Another program may round in another way.
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    same(kept[0], results[False][1][0])  # y
    for value, wanted in zip(good, results[False][0], strict=True):
        same(value, wanted)
    for value, old in zip(kept[1:], jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(value, old)
    unguarded = results[False][1][1:]
    assert not all(np.all(np.isfinite(leaf)) for leaf in unguarded)


@each
def test_an_empty_batch_moves_nothing(name, rng):
    normalizer, state, params = problem(name, rng)
    mask, x = np.ones((0, 1, 5), bool), draw(rng, (0, *SHAPE[1:]))
    for options in ({}, {"mask": mask}):
        y, new = jax.jit(normalizer.ours())(x, options.get("mask"), state, *params)
        assert y.shape == x.shape
        chex.assert_trees_all_equal(new, state)


@each
def test_poisoned_statistics_do_not_reach_y(name, rng):
    """Nor its gradients; with momentum 0 the state recovers."""
    normalizer, state, params = problem(name, rng)
    if name == "renorm":  # it follows the running ones where they are finite
        normalizer = Normalizer("batch_renorm", {"r_max": 1.0, "d_max": 0.0})
    poisoned = jax.tree.map(
        lambda leaf: place(np.full(leaf.shape, np.nan)) if leaf.ndim else leaf, state
    )
    x, weight = draw(rng, SHAPE), draw(rng, SHAPE)
    forward = normalizer.ours(momentum=0.0)

    @jax.jit
    def step(x, state):
        def loss(x):
            y, new = forward(x, None, state, *params)
            return jnp.sum(weight * y), (y, new)

        return jax.grad(loss, has_aux=True)(x)

    actual, expected = step(x, poisoned), step(x, state)
    if normalizer.state == "steps":  # only one row has had an update
        (dx, (y, new)), (wanted_dx, (wanted_y, wanted)) = actual, expected
        new, wanted = (
            jax.tree.map(lambda leaf: np.asarray(leaf)[1], s) for s in (new, wanted)
        )
        actual, expected = (dx, y, new), (wanted_dx, wanted_y, wanted)
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for value, wanted in pairs:
        assert oracles.error(value, wanted) <= 1e-5


@each
def test_poisoned_statistics_show_in_inference(name, rng):
    """Each in its own feature, here the last one, and in no other."""
    normalizer, state, params = problem(name, rng)
    infer, x = jax.jit(normalizer.ours(use_running_average=True)), draw(rng, SHAPE)
    leaves, structure = jax.tree.flatten(state)
    last = np.broadcast_to(np.arange(5) == 4, SHAPE)
    for i, leaf in enumerate(leaves):
        if leaf.ndim:  # not a count
            poisoned = [*leaves[:i], leaf.at[..., -1].set(jnp.nan), *leaves[i + 1 :]]
            y, _ = infer(x, None, jax.tree.unflatten(structure, poisoned), *params)
            np.testing.assert_array_equal(np.isnan(y), last)


@pytest.mark.parametrize("poison", ["mean", "std"])
def test_renorm_does_not_correct_towards_what_is_not_finite(poison, rng):
    """One feature; the others are corrected as before."""
    normalizer, state, params = problem("renorm", rng)
    x = draw(rng, SHAPE)
    values = np.array(getattr(state, poison))
    values[2] = np.nan
    step = jax.jit(normalizer.ours())
    poisoned = state._replace(**{poison: place(values)})
    y, new = jax.device_get(step(x, None, poisoned, *params))
    expected, wanted = jax.device_get(step(x, None, state, *params))
    plain, _ = run(normalizer, x, state, params, r_max=1.0, d_max=0.0)
    plain, others = np.asarray(plain), np.arange(5) != 2
    assert oracles.error(y[..., others], expected[..., others]) <= 1e-6
    assert oracles.error(y[..., 2], plain[..., 2]) <= 1e-5
    assert np.isnan(getattr(new, poison)[2])
    for value, target in zip(new[:2], wanted[:2], strict=True):
        assert oracles.error(value[others], target[others]) <= 1e-6


@each
def test_momentum_as_a_function_of_the_updates(name, rng):
    """With statistics that count; those that do not say so."""
    normalizer, state, params = problem(name, rng)
    x, options = draw(rng, SHAPE), {"momentum": lambda count: count / (count + 3)}
    plain = state
    if normalizer.state != "renorm":
        with pytest.raises(TypeError, match=r"init_\w+_stats.*counted=True"):
            run(normalizer, x, state, params, **options)
        counted = getattr(jaxnorm, f"Counted{type(state).__name__}")
        shape = jax.tree.leaves(state)[0].shape[:-1]
        state = counted(*state, place(np.full(shape, 3.0)))
    if name == "ghost, sequential":  # see test_ghost_batch_norm.py
        options["momentum"] = lambda count: jnp.full_like(count, 0.5)
    y, new = run(normalizer, x, state, params, **options)
    expected = normalizer.oracle(x, None, plain, momentum=0.5)(x, *params)
    for value, wanted in zip((y, *new), expected, strict=False):
        assert oracles.error(value, wanted) <= 1e-5
    updates = {"ghost, sequential": 4}.get(name, 1)
    assert np.max(new.count) == 3 + updates


@pytest.mark.parametrize("name", matrix(SHIFTED, often=("mean only", "adaptive")))
def test_large_means_cost_no_accuracy(name, rng):
    """Of 1e4 standard deviations, where the running mean is warm."""
    normalizer, state, params = problem(name, rng)
    std = np.asarray([0.3, 1, 3, 1, 0.3])
    mean = 1e4 * std * [1, -1, 1, -1, 1]
    x, warm = draw(rng, SHAPE, loc=mean, std=std), place(mean + std / 2)
    if normalizer.state == "mean":
        state = jaxnorm.MeanStats(warm)
    else:
        near = {"mean": warm, "std" if name == "renorm" else "var": std**2}
        if name == "renorm":
            near["std"] = std
        own = normalizer.options.get("instance_features", 0)
        state = state._replace(
            **{
                key: place(
                    np.broadcast_to(np.asarray(value)[own:], getattr(state, key).shape)
                )
                for key, value in near.items()
            }
        )
    y, new = run(normalizer, x, state, params)
    expected, *rest = normalizer.oracle(x, None, state)(x, *params)
    assert oracles.error(y, expected) <= 3e-5
    for value, wanted in zip(jax.tree.leaves(new), rest, strict=True):
        assert oracles.error(value, wanted) <= 3e-5
