"""The LSTM cell over sequences of unequal length, as in Linen."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.drawing import place
from support.nnx_modules import (
    TABLE,
    build,
    draw_variables,
    flatten,
    load,
    program,
    values,
)

import jaxnorm.nnx

name = "BatchNormLSTMCell"


@pytest.mark.parametrize("train", [True, False])
def test_the_program_of_a_step_is_that_of_linen(train):
    def own(variables, carry, x):
        rnn = load(build(name), variables)
        view = {} if train else {"use_running_average": True}
        carry, y = nnx.view(rnn.cell, **view)(carry, x)
        return carry, y, values(rnn)

    def linen(variables, carry, x):
        cell = TABLE[name].build(train).cell
        within = {kind: value["cell"] for kind, value in variables.items()}
        (carry, y), updates = cell.apply(within, carry, x, mutable=["batch_stats"])
        after = {kind: {"cell": value} for kind, value in (within | updates).items()}
        return carry, y, flatten(after)

    x = jnp.zeros((4, 4))
    carry = build(name).cell.initialize_carry(x.shape)
    arguments = draw_variables(name, jnp.zeros((4, 6, 4))), carry, x
    assert program(own, *arguments) == program(linen, *arguments)


@pytest.mark.full  # in Linen in the default tier
def test_sequences_of_unequal_length_match_linen(rng):
    x = rng.normal(size=(4, 5, 4))
    x[1, 3:] = np.nan
    x = place(x)
    lengths = jax.device_put(np.array([5, 3, 1, 4]))
    variables = draw_variables(name, jnp.zeros((4, 6, 4)))
    linen, rnn = TABLE[name].build(True), load(build(name), variables)
    carry = rnn.cell.initialize_carry((4, 4))._replace(length=lengths)
    given = {"initial_carry": carry, "seq_lengths": lengths}
    expected, updates = jax.jit(
        lambda variables, x: linen.apply(variables, x, **given, mutable=["batch_stats"])
    )(variables, x)
    actual = nnx.jit(lambda rnn, x: rnn(x, **given))(rnn, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    own = {k: v for k, v in values(rnn).items() if k.startswith("batch_stats")}
    for path, value in flatten(updates).items():
        np.testing.assert_allclose(own[path], value, rtol=1e-4, atol=1e-5)


def test_a_mask_comes_with_the_inputs(rng):
    """As lengths in the carry do; whatever the padding holds."""
    lengths = np.array([5, 3, 1, 4])
    mask = (np.arange(5) < lengths[:, None])[..., None]
    x = rng.normal(size=(4, 5, 4)).astype(np.float32)
    given = {"seq_lengths": jax.device_put(lengths)}
    variables = draw_variables(name, jnp.zeros((4, 6, 4)))
    results = []
    for masked in (True, False):
        rnn = load(build(name), variables)
        carry = rnn.cell.initialize_carry((4, 4))
        if masked:
            inputs = jax.device_put(np.where(mask, x, 77)), jax.device_put(mask)
            inputs = jaxnorm.nnx.MaskedInputs(*inputs)
        else:
            inputs = jax.device_put(x)
            given["initial_carry"] = carry._replace(length=given["seq_lengths"])
        y = nnx.jit(lambda rnn, x, given=given: rnn(x, **given))(rnn, inputs)
        results.append((np.where(mask, y, 0), values(rnn)))
    chex.assert_trees_all_close(*results, rtol=1e-5, atol=1e-6)


def test_a_carry_of_random_numbers(rng):
    cell = build("BatchNormLSTMCell").cell
    normal = nnx.initializers.normal()
    carry = cell.initialize_carry((2, 4), nnx.Rngs(0), normal)
    assert len(np.unique([carry.c, carry.h])) == 2 * carry.c.size
    with pytest.raises(ValueError, match="rngs must be given"):
        cell.initialize_carry((2, 4), carry_init=normal)


def test_the_first_carry_can_be_donated():
    """No array is in two places, which JAX refuses to donate."""
    carry = build(name).cell.initialize_carry((2, 4))
    advance = jax.jit(lambda carry: jax.tree.map(jnp.negative, carry), donate_argnums=0)
    jax.block_until_ready(advance(carry))
