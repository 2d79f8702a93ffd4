"""One time step of the LSTM of recurrent batch normalization."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array
from jax import numpy as jnp

from jaxnorm.core.dtypes import accumulation_dtype
from jaxnorm.core.validation import check_inexact, check_real


class LSTMCarry(NamedTuple):
    """What a `BatchNormLSTMCell` hands on from one time step to the next.

    Attributes:
      c: Memory, (batch, features).
      h: Output, (batch, features).
      step: Index of the next time step, (batch,) int32, the same for all.
      length: Number of time steps of each sequence, (batch,) int32. Beyond it an
        example reaches no statistic.
    """

    c: Array
    h: Array
    step: Array
    length: Array


def check_inputs(inputs: Array) -> Array:
    """Returns the inputs of a time step as an array.

    Raises:
      TypeError: If they are not real and floating.
    """
    inputs = check_inexact(inputs, "inputs")
    check_real("a gate lets through a share of 0 to 1", inputs=inputs)
    return inputs


def lstm_step(
    carry: LSTMCarry,
    gates: Array,
    normalize_memory: Callable[[Array], Array],
    gate_fn: Callable[[Array], Array],
    activation_fn: Callable[[Array], Array],
) -> tuple[LSTMCarry, Array]:
    """Takes one time step, given its gates.

    With f, i, o and g the four parts of the gates::

        c = sigmoid(f) c + sigmoid(i) tanh(g)
        h = sigmoid(o) tanh(normalize_memory(c))

    Args:
      carry: Of the time step before.
      gates: (batch, 4 features), before their activations.
      normalize_memory: Normalizes c.
      gate_fn: The sigmoid.
      activation_fn: The tanh.

    Returns:
      The new carry, in the dtypes of the old one, and its h in that of the gates.
    """
    c, h, step, length = carry
    # What is carried keeps its dtype, whatever that of the computation is.
    wide = accumulation_dtype(gates.dtype, c.dtype)
    f, i, o, g = jnp.split(gates.astype(wide), 4, axis=-1)
    memory = gate_fn(f) * c.astype(wide)
    memory = memory + gate_fn(i) * activation_fn(g)
    normalized = normalize_memory(memory).astype(wide)
    y = (gate_fn(o) * activation_fn(normalized)).astype(gates.dtype)
    return LSTMCarry(memory.astype(c.dtype), y.astype(h.dtype), step + 1, length), y
