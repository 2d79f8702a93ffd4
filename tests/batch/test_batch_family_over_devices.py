"""The batch family over eight devices: what one device gives on the whole batch."""

import functools
import itertools

import jax
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from support.batch_family import FAMILY, ghosts
from support.modes import (
    AXIS,
    DEVICES,
    MODES,
    ROWS,
    SAME,
    SHAPE,
    WHOLE,
    differentiate,
    draw_problem,
    mesh_of,
    split_all,
)
from support.tiers import matrix

ALL = {name: n for name, n in FAMILY.items() if not name.startswith("ghost")}
# Four examples lie on each device: its own ghosts, one, a part of one.
ALL |= {
    f"ghosts of {size}, {rule}": ghosts(size, rule)
    for size, rule in [
        (1, "mean"),
        (2, "sequential"),
        (4, "pooled"),
        (8, "mean"),
        (16, "sequential"),
        (32, "pooled"),
    ]
}
# Each mode for some, one of each kind for ghosts that lie on two devices, of which pmap
# is in the tests below; all modes of batch norm are in test_synchronization.py.
OFTEN = [
    ("ghosts of 8, mean", "vmap, grad outside"),
    ("ghosts of 8, mean", "unchecked, grad inside"),
    ("ghosts of 8, mean", "jit, Explicit"),
    ("renorm", "vmap, grad inside"),
    ("mean only", "unchecked, grad outside"),
    ("recurrent", "shard_map, grad inside"),
    ("switchable", "shard_map, grad outside"),
    ("batch-instance", "jit, Explicit"),
    ("instance-batch", "jit, Explicit"),
    ("evo", "shard_map, grad outside"),
    ("ghosts of 1, mean", "jit, Auto"),
    ("ghosts of 2, sequential", "pmap"),
    ("ghosts of 16, sequential", "shard_map, grad outside"),
    ("ghosts of 32, pooled", "jit, Explicit"),
]


@functools.cache
def problem_and_results(name):
    """Unequal masks, and a device with no element; one device, held to the oracle."""
    rng, normalizer = np.random.default_rng(0), ALL[name]
    x, mask, weight, *_ = draw_problem(rng)
    state = normalizer.draw_state(rng, SHAPE[-1:])
    params = normalizer.draw_params(rng, SHAPE[-1:])
    problem = x, mask, weight, state, *params
    results = jax.jit(differentiate(normalizer.ours()))(*problem)
    expected = normalizer.oracle(x, mask, state)(x, *params)
    for value, wanted in zip(jax.tree.leaves(results[:2]), expected, strict=True):
        assert oracles.error(value, wanted) <= WHOLE
    return problem, results


@pytest.mark.parametrize(("name", "mode"), matrix(itertools.product(ALL, MODES), OFTEN))
def test_one_device_and_eight(name, mode):
    problem, expected = problem_and_results(name)
    axis = {} if mode.startswith("jit") else {"axis_name": AXIS}
    run = MODES[mode](ALL[name].ours(**axis), params=len(problem) - 4)
    actual = jax.device_get(run(*problem))
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for value, wanted in pairs:
        assert oracles.error(value, wanted) <= WHOLE


# No axis of examples, or none at all.
SHARED = {"features": np.arange(5) != 1, "scalar": np.asarray(True)}


# Ghosts within a device, and over two.
OFTEN_SHARED = [
    ("ghosts of 2, sequential", "features"),
    ("ghosts of 8, mean", "scalar"),
]


@pytest.mark.parametrize(
    ("name", "kind"), matrix(itertools.product(ALL, SHARED), OFTEN_SHARED)
)
def test_a_mask_that_all_devices_share(name, kind):
    """Types say that what it counts is the same on all, and it is theirs all the same.

    The others sum counts along with what varies, as ghosts on several devices do.
    """
    (x, own, weight, *shared), _ = problem_and_results(name)
    x, mask, forward = np.where(own, x, 0), SHARED[kind], ALL[name].ours()
    expected = jax.jit(differentiate(forward))(x, mask, weight, *shared)
    sharded = jax.shard_map(
        ALL[name].ours(axis_name=AXIS),
        mesh=mesh_of(AxisType.Auto),
        in_specs=(ROWS, *(SAME,) * (1 + len(shared))),
        out_specs=(ROWS, SAME),
    )
    actual = jax.jit(differentiate(sharded))(x, mask, weight, *shared)
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for value, wanted in pairs:
        assert oracles.error(value, wanted) <= WHOLE


def over_devices(normalizer, x, mask, states, params, **options):
    """y and the leaves of the new state, the same on all devices of a pmap."""
    forward = normalizer.ours(axis_name=AXIS, **options)
    data = {"x": x} if mask is None else {"x": x, "mask": mask}
    rows = dict(zip(data, split_all(*data.values()), strict=True))

    def local(rows, state):
        return forward(rows["x"], rows.get("mask"), state, *params)

    y, new = jax.device_get(jax.pmap(local, AXIS)(rows, states))
    for leaf in jax.tree.leaves(new):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    return y.reshape(SHAPE), *(leaf[0] for leaf in jax.tree.leaves(new))


def on_each(state):
    return jax.tree.map(lambda s: np.stack([s] * DEVICES), state)


@pytest.mark.parametrize(
    "name",
    matrix(
        ["ghosts of 8, mean", "ghosts of 2, sequential", "switchable", "evo"],
        often=["ghosts of 8, mean", "ghosts of 2, sequential", "switchable"],
    ),
)
def test_two_passes_without_a_mask(name):
    """Counts are known while tracing, those of ghosts that span devices too."""
    normalizer, rng = ALL[name], np.random.default_rng(0)
    x, *_ = draw_problem(rng, "full", ratio=10)
    state = normalizer.draw_state(rng, SHAPE[-1:])
    params = normalizer.draw_params(rng, SHAPE[-1:])
    options = {"unbiased": True, "use_fast_variance": False}
    actual = over_devices(normalizer, x, None, on_each(state), params, **options)
    expected = normalizer.oracle(x, None, state, unbiased=True)(x, *params)
    for value, wanted in zip(actual, expected, strict=True):
        assert oracles.error(value, wanted) <= WHOLE


def test_a_ghost_that_is_not_finite_is_alone():
    """Of four, each on two devices."""
    (x, mask, _, state, *params), _ = problem_and_results("ghosts of 8, mean")
    x = np.where(mask, x, 0)
    bad = x.copy()
    bad[8:16] = np.nan
    expected, actual = (
        over_devices(ALL["ghosts of 8, mean"], v, None, on_each(state), params)[0]
        for v in (x, bad)
    )
    others = np.delete(np.arange(32), np.s_[8:16])
    np.testing.assert_array_equal(actual[others], expected[others])


@pytest.mark.parametrize(
    "name",
    matrix(
        ["renorm", "evo", "ghosts of 8, mean"], often=["renorm", "ghosts of 8, mean"]
    ),
)
def test_drifted_replicas_leave_equal(name):
    """They act as their average."""
    normalizer = ALL[name]
    (x, mask, _, state, *params), _ = problem_and_results(name)
    rng = np.random.default_rng(1)
    drift = jax.tree.map(lambda s: rng.uniform(0.8, 1.2, (DEVICES, *s.shape)), state)
    stacked = jax.tree.map(
        lambda s, d: (np.asarray(s) * d).astype(s.dtype), state, drift
    )
    average = jax.tree.map(lambda s: np.mean(s, 0, np.float64), stacked)
    actual = over_devices(normalizer, x, mask, stacked, params)
    expected = normalizer.oracle(x, mask, average)(x, *params)
    for value, wanted in zip(actual, expected, strict=True):
        assert oracles.error(value, wanted) <= WHOLE
