"""The batch family over eight devices: what one device gives on the whole batch."""

import functools

import jax
import numpy as np
import oracle
import pytest
from batch_family import FAMILY, ghosts
from modes import (
    AXIS,
    DEVICES,
    FEW,
    MODES,
    SHAPE,
    WHOLE,
    differentiate,
    draw_problem,
    split_all,
)

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
TWO = ("unchecked, grad inside", "jit, Auto")
MIXED = ("shard_map, grad outside", "jit, Explicit")
SOME = {
    "adaptive": MIXED,
    "switchable": MIXED,
    "batch-instance": MIXED,
    "instance-batch": MIXED,
    "ghosts of 8, mean": tuple(MODES),
    "ghosts of 1, mean": TWO,
    "ghosts of 2, sequential": (*MIXED, "vmap, grad inside"),
    "ghosts of 4, pooled": TWO,
    "ghosts of 16, sequential": (*MIXED, "vmap, grad outside"),
    "ghosts of 32, pooled": MIXED,
    "mean only": ("unchecked, grad outside",),
    "recurrent": ("shard_map, grad inside",),
}


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
        assert oracle.error(value, wanted) <= WHOLE
    return problem, results


# All modes for ghosts that lie on two devices; the full matrix is slow.
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        (name, mode)
        if mode in SOME.get(name, FEW)
        else pytest.param(name, mode, marks=pytest.mark.slow)
        for name in ALL
        for mode in MODES
    ],
)
def test_one_device_and_eight(name, mode):
    problem, expected = problem_and_results(name)
    axis = {} if mode.startswith("jit") else {"axis_name": AXIS}
    run = MODES[mode](ALL[name].ours(**axis), params=len(problem) - 4)
    actual = jax.device_get(run(*problem))
    pairs = zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True)
    for value, wanted in pairs:
        assert oracle.error(value, wanted) <= WHOLE


@pytest.mark.parametrize("name", ["renorm", "evo", "ghosts of 8, mean"])
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
    local = jax.pmap(
        normalizer.ours(axis_name=AXIS), AXIS, in_axes=(0, 0, 0, *[None] * len(params))
    )
    y, new = jax.device_get(local(*split_all(x, mask), stacked, *params))
    for leaf in jax.tree.leaves(new):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    actual = y.reshape(SHAPE), *(leaf[0] for leaf in jax.tree.leaves(new))
    expected = normalizer.oracle(x, mask, average)(x, *params)
    for value, wanted in zip(actual, expected, strict=True):
        assert oracle.error(value, wanted) <= WHOLE
