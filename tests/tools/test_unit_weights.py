"""Optimizers whose weights stay on the unit sphere."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import oracles
import pytest
from support.drawing import draw, zeros
from support.refusals import refused

import jaxnorm
from jaxnorm import tools

pytestmark = pytest.mark.usefixtures("annotations_checked")

SHAPES = {"dense": (6, 4), "conv": (3, 2, 4), "embedding": (5, 4), "bias": (4,)}
MASK = {"dense": True, "conv": True, "embedding": False, "bias": False}
ROWS = {name: name == "embedding" for name in SHAPES}


def draw_params(rng, dtype=np.float32):
    return {name: draw(rng, shape, dtype) for name, shape in SHAPES.items()}


def wrapped(optimizer):
    columns = tools.unit_weights(optimizer, MASK)
    return tools.unit_weights(columns, lambda params: ROWS, axes=-1)


def norms(params):
    sums = {"dense": 0, "conv": (0, 1), "embedding": -1}
    return {
        name: np.linalg.norm(
            oracles.wide(params[name]).reshape(-1, 4), axis=-1 if axes == -1 else 0
        )
        for name, axes in sums.items()
    }


def step_of(optimizer):
    @jax.jit
    def step(params, state, gradients):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    return step


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
@jax.numpy_dtype_promotion("standard")  # which Adam needs
def test_norms_are_1_after_each_step(dtype, rng):
    """And the weights those of the definition, from the optimizer's own update."""
    plain = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1))
    optimizer = wrapped(plain)
    step, own_step = step_of(optimizer), step_of(plain)
    params = draw_params(rng, dtype)
    state = optimizer.init(params)
    own = plain.init(params)
    eps = float(jnp.finfo(dtype).eps)
    for _ in range(3):
        gradients = draw_params(rng, dtype)
        expected, own = own_step(params, own, gradients)
        previous, (params, state) = params, step(params, state, gradients)
        for name, value in norms(params).items():
            # two roundings of each element, relative to the larger of both
            assert np.max(np.abs(value - 1)) <= 4 * eps * np.max(
                np.abs(oracles.wide(previous[name])) + 1
            )
        moved = oracles.wide(expected["dense"])
        moved = moved / np.linalg.norm(moved, axis=0)
        assert oracles.error(params["dense"], moved) <= 8 * eps
        np.testing.assert_array_equal(params["bias"], expected["bias"])
        assert jax.tree.map(lambda leaf: leaf.dtype, params) == dict.fromkeys(
            SHAPES, dtype
        )
    updates, _ = jax.eval_shape(optimizer.update, gradients, state, params)
    assert jax.tree.map(lambda leaf: leaf.dtype, updates) == dict.fromkeys(
        SHAPES, dtype
    )
    for a, b in zip(*map(jax.tree.leaves, (state, own)), strict=True):
        np.testing.assert_array_equal(a, b)  # it passes through


def test_units_of_zeros_stay(rng):
    optimizer = tools.unit_weights(optax.sgd(0.1), True)  # a prefix of any tree
    params = {"kernel": zeros((3, 2))}
    update = jax.jit(lambda p: optimizer.update(p, optimizer.init(p), p))
    updates, _ = update(params)
    np.testing.assert_array_equal(updates["kernel"], 0)


def test_further_arguments_reach_the_optimizer(rng):
    params = {"kernel": draw(rng, (3, 2))}
    optimizer = tools.unit_weights(optax.scale_by_backtracking_linesearch(5), True)

    def loss(params):
        return jnp.sum(params["kernel"] ** 3)

    @jax.jit
    def step(params):
        params = {"kernel": jaxnorm.unit_norm(params["kernel"], axes=0)}
        value, gradient = jax.value_and_grad(loss)(params)
        updates, _ = optimizer.update(
            gradient,
            optimizer.init(params),
            params,
            value=value,
            grad=gradient,
            value_fn=loss,
        )
        return optax.apply_updates(params, updates)

    new = step(params)["kernel"]
    np.testing.assert_allclose(np.linalg.norm(new, axis=0), 1, rtol=1e-6)


def update(params, mask, **options):
    optimizer = tools.unit_weights(optax.sgd(0.1), mask, **options)
    return optimizer.update(params, optax.sgd(0.1).init(params), params)


BAD = {
    "nothing": (
        lambda p: update(p, dict.fromkeys(SHAPES, False)),
        ("mask", "got False"),
    ),
    "one axis": (lambda p: update(p, True), ("two axes", "(4,)", "mask")),
    "another axis": (lambda p: update(p, MASK, axes=2), ("axes", "2", "rank 2")),
    "a mask of arrays": (lambda p: update(p, p), ("mask", "booleans")),
    "a mask of names": (lambda p: update(p, "kernel"), ("mask", "booleans", "str")),
    "no parameters": (
        lambda p: tools.unit_weights(optax.sgd(0.1), MASK).update(p, ()),
        ("parameters", "optimizer.update"),
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, rng, as_users_run_it):
    function, says = BAD[case]
    with refused(*says):
        jax.eval_shape(function, draw_params(rng))


def test_an_empty_mask_is_refused_at_once(rng):
    optimizer = tools.unit_weights(optax.sgd(0.1), lambda params: False)
    with refused("mask", "got False"):
        jax.eval_shape(optimizer.init, draw_params(rng))


def test_an_optimizer_of_another_type_is_an_error(rng, as_users_run_it):
    params = draw_params(rng)
    with refused("optimizer", "optax.adamw", "dict"):
        tools.unit_weights(params, optax.sgd(0.1))
