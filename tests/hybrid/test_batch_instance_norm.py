"""Batch-instance norm: its two ends, and what keeps the gate between them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from flax import linen as nn
from flax import nnx
from support.drawing import draw, draw_stats, place
from support.jitted import jitted

import jaxnorm

SHAPE = (4, 12, 5)


def mixed(gate, x, stats, scale, bias, mask=None, **options):
    function = jitted(jaxnorm.batch_instance_norm, **options)
    return function(x, stats, place(np.full(5, gate)), scale, bias, mask=mask)


@pytest.fixture
def problem(rng):
    x, stats = draw(rng, SHAPE, loc=1, std=2), draw_stats(rng, 5)
    return x, stats, draw(rng, 5, loc=1), draw(rng, 5)


@pytest.mark.parametrize("inference", [True, False])
def test_gates_of_1_and_0_are_batch_and_instance_norm(inference, problem, make_mask):
    x, _, scale, bias = problem
    mask = make_mask("bool", SHAPE)
    options = {"use_running_average": inference}
    by_batch, new = jitted(jaxnorm.batch_norm, **options)(*problem, mask=mask)
    instance_norm = jitted(jaxnorm.instance_norm, epsilon=1e-5)
    by_instance = instance_norm(x, scale, bias, mask=mask)
    for gate, expected in ((1.0, by_batch), (0.0, by_instance)):
        y, moved = mixed(gate, *problem, mask, **options)
        assert oracles.error(y, expected) <= 1e-5
        chex.assert_trees_all_close(moved, new, rtol=1e-5, atol=1e-6)
    y, _ = mixed(0.25, *problem, mask, **options)
    expected = 0.25 * oracles.wide(by_batch) + 0.75 * oracles.wide(by_instance)
    assert oracles.error(y, expected) <= 1e-5


def test_the_sum_is_rounded_once(problem):
    """In bfloat16 both parts are added before they are rounded."""
    x, *others = problem
    narrow = place(x, jnp.bfloat16)
    options = {"use_running_average": False}
    wide, _ = mixed(0.5, narrow, *others, dtype=jnp.float32, **options)
    y, _ = mixed(0.5, narrow, *others, dtype=jnp.bfloat16, **options)
    # The two programs may differ in the last bits of float32.
    y, wide = np.asarray(y), np.asarray(wide)
    low, high = ((wide + np.float32(d)).astype(jnp.bfloat16) for d in (-2e-6, 2e-6))
    assert np.all((low <= y) & (y <= high))


def test_project_gates():
    """Nothing but gates, wherever they are."""
    params = {
        "a": {"gate": jnp.array([-1.0, 0.5, 2.0]), "scale": jnp.array([-1.0, 2.0])},
        "gate": [jnp.array(3.0)],
        "gates": jnp.array(3.0),
    }
    expected = {
        "a": {"gate": jnp.array([0.0, 0.5, 1.0]), "scale": params["a"]["scale"]},
        "gate": params["gate"],  # the list's elements are called 0, 1, ...
        "gates": params["gates"],
    }
    chex.assert_trees_all_equal(jaxnorm.project_gates(params), expected)


@pytest.mark.parametrize(
    "box", [lambda gate: nn.Partitioned(gate, ("model",)), nnx.Param]
)
def test_gates_in_boxes_are_projected(box):
    params = {"norm": {"gate": box(jnp.array([0.5, 0.5])), "scale": box(jnp.ones(2))}}
    moves = jax.tree.map(lambda leaf: 4 * jnp.array([-1.0, 1.0]), params)
    optimizer = jaxnorm.gate_projection()
    updates, _ = optimizer.update(moves, optimizer.init(params), params)
    moved = jax.tree.map(jnp.add, params, updates)
    gate, scale = jax.tree.leaves(moved)
    np.testing.assert_array_equal(gate, [0, 1])
    np.testing.assert_array_equal(scale, [-3, 5])


def test_gate_projection_keeps_gates_in_their_interval(rng):
    optimizer = optax.chain(optax.sgd(1.0), jaxnorm.gate_projection())
    plain = optax.sgd(1.0)
    params = {"gate": jnp.array([0.1, 0.5, 0.9]), "scale": jnp.ones(3)}
    state, plain_state = optimizer.init(params), plain.init(params)
    for _ in range(5):
        gradients = {"gate": draw(rng, 3), "scale": draw(rng, 3)}
        updates, state = optimizer.update(gradients, state, params)
        free, plain_state = plain.update(gradients, plain_state, params)
        free = optax.apply_updates(params, free)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["gate"], np.clip(free["gate"], 0, 1), 1e-6)
        assert np.all((params["gate"] >= 0) & (params["gate"] <= 1))
        np.testing.assert_array_equal(params["scale"], free["scale"])


def test_gate_projection_needs_the_parameters():
    projection = jaxnorm.gate_projection()
    with pytest.raises(ValueError, match="needs the parameters"):
        projection.update({"gate": jnp.ones(2)}, projection.init({}))
