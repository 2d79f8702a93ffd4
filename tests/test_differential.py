"""Calls drawn at random, against the oracle: y, the new state and the gradients.

Each draw chooses a normalizer, and all that it is given: shape, axes, dtypes, mask,
mode, options, the size of the numbers, how far the running statistics are (draws.py).
What rounding may do is said once for all, in rounding.py. Any draw runs alone, by its
number, also one that is in no tier::

    pytest "tests/test_differential.py::test_draw[1234]"
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.draws import ROWS, draw_call
from support.rounding import Roundings, derivative
from support.tiers import matrix

# The full tier has one draw of each normalizer, the slow one 5,000.
OFTEN = range(0, len(ROWS), 9)
BLOCK, BLOCKS = 100, 50
# Draws of the sums that large arrays have on GPUs, of every normalizer.
STAGED = range(BLOCK * BLOCKS, BLOCK * BLOCKS + 2 * len(ROWS))
BY_SQUARES = "rms_norm", "gated_rms_norm", "segment_rms_norm", "seed_norm"


def pytest_generate_tests(metafunc):
    if "seed" in metafunc.fixturenames:
        named = re.findall(r"test_draw\[(\d+)\]", " ".join(metafunc.config.args))
        seeds = [*range(len(ROWS)), *sorted({*map(int, named)} - {*range(len(ROWS))})]
        metafunc.parametrize("seed", matrix(seeds, often=(*OFTEN, *map(int, named))))


def test_draw(seed):
    draw = draw_call(seed)
    faults = compare(draw)
    assert not faults, f"{draw}: {', '.join(faults)}"


@pytest.mark.parametrize("number", matrix(STAGED, often=STAGED[::12]))
def test_draw_with_sums_in_stages(number, as_on_gpus):
    draw = draw_call(number)
    faults = compare(draw)
    assert not faults, f"{draw}: {', '.join(faults)}"


def test_a_slope_of_the_oracle_is_no_surer_than_a_kink_allows():
    far = np.concatenate([[0], np.logspace(-12, 0, 97)])  # from the kink

    def estimate(jump):
        def function(x):
            return (np.sin(x) + jump * np.maximum(x, 0),)

        x = np.concatenate([-far, far[1:]])
        slope = np.cos(x) + jump * (x > 0)
        value, error = derivative(function, (x,), (np.ones_like(x),))
        assert np.all(np.abs(value - slope) <= error)
        return error

    assert np.max(estimate(0)) < 1e-11
    estimate(0.3)
    estimate(-2)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(BLOCKS))
def test_block(block):
    failed = []
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        draw = draw_call(seed)
        if faults := compare(draw):
            failed.append(f"{draw}: {', '.join(faults)}")
    assert not failed, "\n".join(failed)


def compare(draw):
    """What differs by more than rounding may do, and how many times as much it is."""
    arguments = (draw.x, *draw.params.values(), *draw.momentum)
    bias = np.max(np.abs(draw.params.get("bias", 0.0)), initial=0.0)
    function, seed = draw.oracle(), draw.seed
    around = Roundings(function, arguments, draw.arithmetic, float(bias), seed)
    lost = around.lost[0]
    if lost.any() and draw.options.get("epsilon") == 0:  # 0 / 0, whatever is masked
        lost |= draw.hidden
    with jax.enable_x64(bool(draw.x.dtype == np.float64)):
        y, new, gradients = differentiate(draw, np.where(lost, 0, draw.weight))
    found = {}
    for i, value in enumerate((y, *new)):
        # Beyond the range, what cannot be computed is NaN; 0 only of these.
        but = np.isnan(value) & (not draw.scales.in_range)
        if draw.name in BY_SQUARES:
            but |= (value == 0) & (not draw.scales.in_range)
        if i == 0:  # masked elements come out as the bias there
            but = but | (draw.hidden & (not draw.scales.in_range))
        found[f"result {i}"] = around.excess(i, value, but)
    # With epsilon 0 what is lost may be infinite, and is a part of every sum.
    if draw.scales.in_range and (not lost.any() or draw.options.get("epsilon", 1) > 0):
        rng = np.random.default_rng((draw.seed, 8))
        weight = np.where(lost, 0, draw.weight)
        for i, (key, gradient) in enumerate(gradients.items()):
            assert gradient.dtype == arguments[i].dtype, key
            found[f"gradient in {key}"] = around.excess_of_slope(
                i, gradient, weight, draw.unit(key), rng
            )
    return [f"{key} off by {ratio:.3g}" for key, ratio in found.items() if ratio > 1]


def differentiate(draw, weight):
    """y, the new state, and the gradients of sum(weight y) by argument."""

    @jax.jit
    def step(x, params, state, mask, weight):
        def loss(x, params):
            y, new = draw.ours(x, params, state, mask)
            return jnp.sum(jnp.real(jnp.conj(weight.astype(y.dtype)) * y)), (y, new)

        gradients, results = jax.grad(loss, (0, 1), has_aux=True)(x, params)
        return *results, gradients

    weight = weight.astype(np.complex64 if np.iscomplexobj(weight) else np.float32)
    results = step(draw.x, draw.params, draw.state, draw.mask, weight)
    y, new, (dx, dparams) = jax.device_get(results)
    return y, new, {"x": dx} | {key: dparams[key] for key in draw.params}
