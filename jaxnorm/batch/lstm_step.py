"""One time step of the LSTM of recurrent batch normalization."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array
from jax import numpy as jnp

from jaxnorm._core.arguments.align import align_mask
from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_inexact, check_real


class LSTMCarry(NamedTuple):
    """The carry of a `BatchNormLSTMCell`, from one time step to the next.

    Attributes:
      c: Memory, (batch, features).
      h: Output, (batch, features).
      step: Index of the next time step, (batch,) int32, the same for all.
      length: Number of time steps of each sequence, (batch,) int32. Later steps of
        an example do not affect statistics.
    """

    c: Array
    h: Array
    step: Array
    length: Array


class MaskedInputs(NamedTuple):
    """Inputs of a `BatchNormLSTMCell` together with a mask, for `nn.RNN` or `nnx.RNN`.

    It has the shape of x. The RNN slices or reverses x and the mask together.

    Attributes:
      x: Inputs, (batch, time, in), or (time, batch, in) where time is first.
      mask: Selects the valid examples of each step, or gives their weights: the shape
        of x with 1 feature.

    Example:
      >>> import jax, jax.numpy as jnp, flax.linen as nn, jaxnorm.linen
      >>> x, lengths = jnp.ones((8, 5, 3)), jnp.array([5, 3, 4, 5, 1, 2, 5, 4])
      >>> mask = jnp.arange(5)[None] < lengths[:, None]
      >>> inputs = jaxnorm.linen.MaskedInputs(x, mask[..., None])
      >>> cell = jaxnorm.linen.BatchNormLSTMCell(4, 5, use_running_average=False)
      >>> rnn = nn.RNN(cell, variable_carry="batch_stats")
      >>> variables = jax.eval_shape(rnn.init, jax.random.key(0), inputs)
      >>> def train(variables, inputs, lengths):
      ...     return rnn.apply(
      ...         variables, inputs, seq_lengths=lengths, mutable=["batch_stats"]
      ...     )
      >>> y, updates = jax.eval_shape(train, variables, inputs, lengths)
      >>> y.shape
      (8, 5, 4)
    """

    x: Array
    mask: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x."""
        return self.x.shape

    @property
    def ndim(self) -> int:
        """The number of axes of x."""
        return self.x.ndim


def inputs_and_mask(
    carry: LSTMCarry, inputs: Array | MaskedInputs, mask: Array | None
) -> tuple[Array, Array]:
    """Returns the inputs of a time step, with 0 where masked, and the combined mask.

    Args:
      carry: The carry of the previous time step.
      inputs: (batch, in), or `MaskedInputs`.
      mask: (batch, 1), or None. Sequences that have ended are masked as well.

    Raises:
      TypeError: If the inputs are not real and floating, or the carry has another type.
      ValueError: If the carry or the mask does not fit, or there are two masks.
    """
    if not isinstance(carry, LSTMCarry):
        raise TypeError(
            "carry must be the LSTMCarry of the previous time step, got "
            f"{type(carry).__name__}. Start with cell.initialize_carry(...); to "
            "change its c or h, call carry._replace(...)."
        )
    if isinstance(inputs, MaskedInputs):
        if mask is not None:
            raise ValueError(
                "mask must be None if the inputs are MaskedInputs, which contain a "
                "mask, got both. Pass inputs.x with mask=, or MaskedInputs alone."
            )
        inputs, mask = inputs
    inputs = check_inexact(inputs, "inputs")
    check_real("a gate lets through a share of 0 to 1", inputs=inputs)
    if carry.step.shape != inputs.shape[:-1]:
        raise ValueError(
            f"inputs must have the batch of the carry, {carry.step.shape}, before one "
            f"axis of features, got the shape {inputs.shape}. In an RNN the time is "
            "one more axis: nn.RNN(cell), nnx.RNN(cell)."
        )
    counts = jnp.expand_dims(carry.step < carry.length, -1)
    mask = align_mask(mask, inputs)
    if mask is not None:
        if mask.shape[-1] != 1:
            raise ValueError(
                "mask must have 1 feature, since it selects whole time steps of "
                f"examples, got the shape {mask.shape} for inputs {inputs.shape}. "
                "If it has no feature axis, pass mask[..., None]."
            )
        counts = jnp.where(counts, mask, jnp.zeros_like(mask))
    # Else NaN in the padding would reach the gradient of the kernel.
    return jnp.where(counts.astype(bool), inputs, jnp.zeros_like(inputs)), counts


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
      carry: The carry of the previous time step.
      gates: (batch, 4 features), before their activations.
      normalize_memory: Normalizes c.
      gate_fn: The sigmoid.
      activation_fn: The tanh.

    Returns:
      The new carry, in the dtypes of the old one, and its h in the dtype of the gates.
    """
    c, h, step, length = carry
    # The carry keeps its dtype, whatever the dtype of the computation.
    wide = accumulation_dtype(gates.dtype, c.dtype)
    f, i, o, g = jnp.split(gates.astype(wide), 4, axis=-1)
    memory = gate_fn(f) * c.astype(wide)
    memory = memory + gate_fn(i) * activation_fn(g)
    normalized = normalize_memory(memory).astype(wide)
    y = (gate_fn(o) * activation_fn(normalized)).astype(gates.dtype)
    return LSTMCarry(memory.astype(c.dtype), y.astype(h.dtype), step + 1, length), y
