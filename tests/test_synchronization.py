"""One batch over eight devices gives what one device gives on the whole batch."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support.drawing import place
from support.modes import (
    AXIS,
    DEVICES,
    MODES,
    ROWS,
    SAME,
    SHAPE,
    WHOLE,
    all_modes,
    check,
    draw_problem,
    few_modes,
    forward_pass,
    mesh_of,
    over_rows,
    runner,
    shard_map_inside,
    split_all,
)
from support.tiers import diagonal, matrix

import jaxnorm


@all_modes
def test_unequal_masks_and_an_empty_device(mode, rng):
    problem = draw_problem(rng)
    check(runner(mode, use_fast_variance=True)(*problem), problem)


@few_modes
def test_two_passes(mode, rng):
    problem = draw_problem(rng)
    check(runner(mode, use_fast_variance=False)(*problem), problem)


@few_modes
def test_weights(mode, rng):
    problem = draw_problem(rng, "weights")
    check(runner(mode, use_fast_variance=True)(*problem), problem)


@pytest.mark.parametrize(
    "mode", ["pmap", "vmap, grad outside", "unchecked, grad inside"]
)
def test_without_a_mask(mode, rng):
    """The count is known while tracing: that of all devices."""
    problem = draw_problem(rng, "full")
    normalize = forward_pass(axis_name=AXIS, unbiased=True)
    run = MODES[mode](lambda x, mask, *others: normalize(x, None, *others))
    check(run(*problem), problem, unbiased=True)


@all_modes
def test_accuracy_in_one_pass_from_warm_statistics(mode, rng):
    check_accuracy(mode, "warm", rng)


@few_modes
def test_accuracy_in_two_passes_from_cold_statistics(mode, rng):
    check_accuracy(mode, "cold", rng)


def check_accuracy(mode, running, rng):
    run = runner(mode, use_fast_variance=running == "warm")
    for ratio in (0, 1, 10, 1e2, 1e3, 1e4):
        x, mask, weight, stats, *_ = draw_problem(rng, "full", ratio)
        if running == "cold":
            stats = jaxnorm.init_batch_stats(SHAPE[-1:])
        affine = place(np.ones(SHAPE[-1])), place(np.zeros(SHAPE[-1]))
        results = run(x, mask, weight, stats, *affine)
        y, new, *gradients = jax.device_get(results)
        check((y, new, *gradients), (x, mask, weight, stats, *affine))
        expected, _, var = oracles.batch_norm(x, *stats, momentum=0)
        assert np.max(np.abs(y - expected)) <= 1e-5, ratio
        assert np.max(np.abs(new.var / var - 1)) <= 1e-5, ratio


@few_modes
def test_options_of_the_statistics(mode, rng):
    """Counted, unbiased and guarded statistics leave every mode as well."""
    run = runner(mode, unbiased=True, skip_nonfinite=True, momentum=lambda count: 0.0)
    x, mask, weight, stats, *affine = problem = draw_problem(rng)
    stats = jaxnorm.CountedBatchStats(*stats, jnp.float32(4))
    actual = run(x, mask, weight, stats, *affine)
    check(actual, problem, unbiased=True)
    assert actual[1].count == 5
    x, mask = np.array(x), np.ones_like(mask)
    x[0, 0, 0] = np.inf
    _, new, *_ = run(place(x), jax.device_put(mask), weight, stats, *affine)
    for old, kept in zip(stats, new, strict=True):  # as averaged over the devices
        np.testing.assert_allclose(kept, old, rtol=1e-6)


MAPS = ("pmap", "vmap", "shard_map", "unchecked")


@pytest.mark.parametrize(
    ("mode", "fast"),
    matrix(itertools.product(MAPS, (True, False)), diagonal(MAPS, (True, False))),
)
def test_moments(mode, fast, rng):
    x, mask, *_ = draw_problem(rng)

    def moments(x, mask):
        return jaxnorm.batch_moments(
            x, mask=mask, axis_name=AXIS, use_fast_variance=fast
        )

    if mode in ("pmap", "vmap"):
        rows = jax.pmap if mode == "pmap" else jax.vmap
        every = rows(moments, axis_name=AXIS)
        every = every if mode == "pmap" else jax.jit(every)
        every = every(*split_all(x, mask))
        actual = [np.asarray(leaf)[3] for leaf in every]  # that of the empty device
    else:
        sharded = jax.shard_map(
            moments,
            mesh=mesh_of(AxisType.Auto),
            in_specs=ROWS,
            out_specs=SAME,
            check_vma=mode == "shard_map",
        )
        actual = jax.jit(sharded)(x, mask)
    for value, wanted in zip(actual, oracles.moments(x, mask=mask), strict=True):
        assert oracles.error(value, wanted) <= WHOLE


def test_a_poisoned_replica_does_not_poison_the_others(rng):
    x, mask, weight, stats, *affine = draw_problem(rng)
    mean = np.broadcast_to(stats.mean, (DEVICES, SHAPE[-1])).copy()
    mean[2, 1] = np.nan
    stacked = jaxnorm.BatchStats(place(mean), place(np.stack([stats.var] * DEVICES)))
    rows = (0, 0, 0, 0, None, None)
    run = over_rows(
        lambda f: jax.pmap(f, axis_name=AXIS, in_axes=rows),
        forward_pass(axis_name=AXIS, momentum=0.9),
    )
    actual = run(x, mask, weight, stacked, *affine)
    check(actual, (x, mask, weight, stats, *affine), momentum=0.9)


@pytest.mark.parametrize(
    ("mode", "fast"),
    matrix(
        itertools.product(MAPS, (True, False)),
        often=[("pmap", True), ("shard_map", True), ("unchecked", False)],
    ),
)
def test_drifted_statistics_act_as_their_average_and_leave_equal(mode, fast, rng):
    x, mask, weight, stats, *affine = draw_problem(rng, ratio=100)
    drift = rng.uniform(-0.2, 0.2, (2, DEVICES, SHAPE[-1]))
    stacked = jaxnorm.BatchStats(
        *(place(np.asarray(s) * (1 + d)) for s, d in zip(stats, drift, strict=True))
    )
    average = jax.tree.map(lambda s: np.mean(np.asarray(s, np.float64), 0), stacked)
    forward = forward_pass(axis_name=AXIS, momentum=0.9, use_fast_variance=fast)
    rows = (0, 0, 0, 0, None, None)
    if mode == "pmap":
        run = over_rows(lambda f: jax.pmap(f, axis_name=AXIS, in_axes=rows), forward)
    elif mode == "vmap":
        run = over_rows(
            lambda f: jax.jit(jax.vmap(f, in_axes=rows, axis_name=AXIS)), forward
        )
    else:

        def local(x, mask, stats, scale, bias):
            stats = jax.tree.map(lambda s: s[0], stats)
            return forward(x, mask, stats, scale, bias)

        run = shard_map_inside(local, mode == "shard_map", stats=P(AXIS))
    actual = run(x, mask, weight, stacked, *affine)
    check(actual, (x, mask, weight, average, *affine), momentum=0.9)
