"""The LSTM cell over sequences of unequal length, as in Linen."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from nnx_modules import TABLE, build, draw_variables, flatten, load, values


def test_sequences_of_unequal_length(rng):
    name = "BatchNormLSTMCell"
    x = jnp.asarray(rng.normal(size=(4, 5, 4)), jnp.float32)
    lengths = jnp.array([5, 3, 1, 4])
    x = x.at[1, 3:].set(jnp.nan)
    variables = draw_variables(name, jnp.zeros((4, 6, 4)))
    linen, rnn = TABLE[name].build(True), load(build(name), variables)
    carry = rnn.cell.initialize_carry((4, 4))._replace(length=lengths)
    given = {"initial_carry": carry, "seq_lengths": lengths}
    expected, updates = linen.apply(variables, x, **given, mutable=["batch_stats"])
    actual = nnx.jit(lambda rnn, x: rnn(x, **given))(rnn, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)
    own = {k: v for k, v in values(rnn).items() if k.startswith("batch_stats")}
    for path, value in flatten(updates).items():
        np.testing.assert_allclose(own[path], value, rtol=1e-4, atol=1e-5)


def test_a_carry_of_random_numbers(rng):
    cell = build("BatchNormLSTMCell").cell
    normal = nnx.initializers.normal()
    carry = cell.initialize_carry((2, 4), nnx.Rngs(0), normal)
    assert len(np.unique([carry.c, carry.h])) == 2 * carry.c.size
    with pytest.raises(ValueError, match="needs random numbers"):
        cell.initialize_carry((2, 4), carry_init=normal)
