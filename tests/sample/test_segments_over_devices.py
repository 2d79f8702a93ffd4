"""Segments that lie on several devices: the same as on one, and what it costs."""

import functools
import itertools

import jax
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support.counting import count_all_reduces
from support.drawing import draw, place
from support.modes import AXIS, DEVICES, MODES, differentiate, mesh_of
from support.tiers import matrix

import jaxnorm

NORMS = {  # parameters, and collectives of the forward pass
    "graph_norm": (("mean_scale", "scale", "bias"), 2),
    "segment_layer_norm": (("scale", "bias"), 2),
    "segment_rms_norm": (("scale",), 1),
}
EACH = 80  # nodes of a device, enough for several sums of each segment
NODES, FEATURES, NUMBER = EACH * DEVICES, 3, 5


def forward_pass(norm, axis_name):
    """The ids are where others have their mask: divided like x."""
    names, _ = NORMS[norm]

    def forward(x, ids, state, *params):
        params = dict(zip(names, params, strict=True))
        given = {"segment_ids": ids, "num_segments": NUMBER, "axis_name": axis_name}
        return getattr(jaxnorm, norm)(x, **params, **given), state

    return forward


def draw_problem(norm):
    """x, ids, weight, no state, parameters. One segment is empty, one on one device."""
    rng = np.random.default_rng(0)
    ids = rng.choice([-1, 0, 1, 3], NODES)
    ids = ids.reshape(DEVICES, EACH)
    ids[2], ids[3] = 4, -1  # a device without any
    ids = ids.reshape(NODES)
    x = np.where(ids[:, None] < 0, np.nan, draw(rng, (NODES, FEATURES), loc=20))
    params = [draw(rng, FEATURES, loc=0.7, std=0.2) for _ in NORMS[norm][0]]
    return place(x), jax.device_put(ids), draw(rng, x.shape), (), *params


@functools.cache
def on_one_device(norm):
    step = jax.jit(differentiate(forward_pass(norm, None)))
    return jax.device_get(step(*draw_problem(norm)))


# A mode of each kind for one of them, which sum over devices in the same way; where the
# gradient is taken does not matter to sums, as test_synchronization.py shows.
OFTEN = [
    ("graph_norm", "pmap"),
    ("graph_norm", "unchecked, grad inside"),
    ("segment_layer_norm", "jit, Explicit"),
    ("segment_layer_norm", "shard_map, grad inside"),
    ("segment_rms_norm", "vmap, grad outside"),
]


@pytest.mark.parametrize(
    ("norm", "mode"), matrix(itertools.product(NORMS, MODES), OFTEN)
)
def test_divided(norm, mode):
    problem = draw_problem(norm)
    forward = forward_pass(norm, None if mode.startswith("jit") else AXIS)
    run = MODES[mode](forward, params=len(problem) - 4)
    actual = jax.device_get(run(*problem))
    pairs = zip(*map(jax.tree.leaves, (actual, on_one_device(norm))), strict=True)
    for value, expected in pairs:
        assert oracles.error(value, expected) <= 3e-5


# Where types are checked, nothing is compiled.
@pytest.mark.parametrize(
    ("norm", "check_vma"),
    matrix(
        itertools.product(NORMS, (True, False)),
        often=[*((norm, True) for norm in NORMS), ("graph_norm", False)],
    ),
)
def test_collectives(norm, check_vma):
    """Of sums of the forward pass, and one of the backward pass.

    Where types are checked, they sum the gradients of parameters too, in one more.
    """
    x, ids, weight, state, *params = draw_problem(norm)
    forward = forward_pass(norm, AXIS)

    def alone(x, ids, *params):
        return forward(x, ids, state, *params)[0]

    def both(x, ids, weight, *params):
        return differentiate(forward)(x, ids, weight, state, *params)[2:]

    def count(function, *arguments, out_specs):
        data = [P(AXIS) if len(a) == NODES else P() for a in arguments]
        mapped = jax.shard_map(
            function,
            mesh=mesh_of(AxisType.Auto),
            in_specs=tuple(data),
            out_specs=out_specs,
            check_vma=check_vma,
        )
        lowered = jax.jit(mapped).lower(*arguments)
        if check_vma:  # before the compiler joins some of them
            return count_all_reduces(lowered)
        return count_all_reduces(lowered.compile())

    promised = NORMS[norm][1]
    assert count(alone, x, ids, *params, out_specs=P(AXIS)) == promised
    shared = P() if check_vma else P(AXIS)
    out_specs = (P(AXIS), *[shared] * len(params))
    backward = 1 + check_vma
    every = count(both, x, ids, weight, *params, out_specs=out_specs)
    assert every == promised + backward
