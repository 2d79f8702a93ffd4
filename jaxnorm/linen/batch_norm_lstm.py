"""An LSTM cell with recurrent batch normalization, as a Flax Linen cell."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from flax.typing import Initializer
from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float, Shaped

from jaxnorm._core.running.momentum import Schedule
from jaxnorm._layers.initializers import MadeInitializer
from jaxnorm.batch.lstm_step import (
    LSTMCarry,
    MaskedInputs,
    inputs_and_mask,
    lstm_step,
)
from jaxnorm.linen.recurrent import RecurrentBatchNorm

__all__ = ["BatchNormLSTMCell"]


class BatchNormLSTMCell(nn.RNNCellBase):
    """An LSTM cell that batch-normalizes its recurrent, input and cell-state terms.

    BN is `jaxnorm.recurrent_batch_norm`, and W_h h and W_x x have four parts each::

        f, i, o, g = BN(W_h h; scale_h) + BN(W_x x; scale_x) + bias
        c = sigmoid(f) c + sigmoid(i) tanh(g)
        h = sigmoid(o) tanh(BN(c; scale_c, bias_c))

    For training and initialization, use it in
    `nn.RNN(cell, variable_carry="batch_stats")`, with `mutable=["batch_stats"]`. For
    inference, use `nn.RNN(cell, variable_broadcast=("params", "batch_stats"))`, because
    Flax can carry only mutable collections. Initialize without `initial_carry`.

    `nn.RNN` does not pass `seq_lengths` to its cell, so the statistics would include
    padding. For sequences of unequal length, pass a mask with them::

        mask = jnp.arange(x.shape[1])[None] < lengths[:, None]
        inputs = jaxnorm.linen.MaskedInputs(x, mask[..., None])
        rnn(inputs, seq_lengths=lengths)

    or pass their lengths in the first carry::

        carry = cell.initialize_carry(key, (batch, features))
        rnn(x, initial_carry=carry._replace(length=lengths), seq_lengths=lengths)

    Variables: `params`: input/kernel, recurrent/kernel, bias, and scale (and bias) of
    norm_x, norm_h and norm_c; `batch_stats`: mean and var of the three, for each step.

    Attributes:
      features: Number of features of c and h.
      max_steps: Number of time steps with statistics; later steps use the last ones.
      use_running_average: False in training, True in inference.
      momentum: Weight of the old statistics, or a function of the number of updates.
      epsilon: Added to the variances.
      axis_name: Mapped axes over which statistics are shared.
      gate_fn: Activation function of the gates.
      activation_fn: Activation function of the cell state and of its update.
      kernel_init: Initializer of W_x.
      recurrent_kernel_init: Initializer of W_h.
      bias_init: Initializer of the bias.
      scale_init: Initializer of the scales. 0.1, as in the paper: with 1 the tanh
        saturates, and gradients vanish.
      dtype: Dtype of the computation; by default what input and parameters promote to.
      param_dtype: Dtype of the parameters.
      carry_init: Initializer of c and h.

    Reference:
      Cooijmans et al., 2017, Recurrent Batch Normalization, equations 6 to 8
      (https://arxiv.org/abs/1603.09025).

    Example:
      >>> import functools, jax, jax.numpy as jnp, flax.linen as nn, jaxnorm.linen
      >>> cell = jaxnorm.linen.BatchNormLSTMCell(
      ...     features=4, max_steps=5, use_running_average=False
      ... )
      >>> rnn = nn.RNN(cell, variable_carry="batch_stats")
      >>> train = functools.partial(rnn.apply, mutable=["batch_stats"])
      >>> x = jnp.ones((8, 5, 3))  # batch, time, features
      >>> variables = jax.eval_shape(rnn.init, jax.random.key(0), x)  # shapes alone
      >>> y, updates = jax.eval_shape(train, variables, x)
      >>> y.shape, updates["batch_stats"]["cell"]["norm_x"]["mean"].shape
      ((8, 5, 4), (5, 16))
    """

    features: int
    max_steps: int
    use_running_average: bool
    momentum: float | Schedule = 0.9
    epsilon: float = 1e-5
    axis_name: str | Sequence[str] | None = None
    # From lax, because jitted functions, as in jax.nn, cannot be pickled.
    gate_fn: Callable[[Array], Array] = lax.logistic
    activation_fn: Callable[[Array], Array] = lax.tanh
    kernel_init: Initializer = MadeInitializer(nn.initializers.lecun_normal)
    recurrent_kernel_init: Initializer = MadeInitializer(nn.initializers.orthogonal)
    bias_init: Initializer = nn.initializers.zeros
    scale_init: Initializer = MadeInitializer(nn.initializers.constant, (0.1,))
    dtype: DTypeLike | None = None
    param_dtype: DTypeLike = jnp.float32
    carry_init: Initializer = nn.initializers.zeros

    @nn.compact
    def __call__(
        self,
        carry: LSTMCarry,
        inputs: Float[Array, "... in"] | MaskedInputs,
        *,
        mask: Shaped[Array, "..."] | None = None,
    ) -> tuple[LSTMCarry, Float[Array, "... features"]]:
        """Takes one time step.

        Args:
          carry: From `initialize_carry`, or from the previous time step.
          inputs: (batch, features), of any size, or `MaskedInputs` from the RNN.
          mask: Selects examples, or gives their weights, (batch, 1). Masked examples
            do not affect statistics; their carry changes as with inputs of 0.

        Returns:
          The new carry, and its h.

        Raises:
          TypeError: If the inputs are not real and floating, or the carry is not an
            `LSTMCarry`.
          ValueError: If the inputs, the carry or the mask have incompatible shapes, or
            two masks are given.
        """
        x, counts = inputs_and_mask(carry, inputs, mask)
        now = jnp.max(carry.step)

        def norm(name: str, x: Array, *, use_bias: bool) -> Array:
            module = RecurrentBatchNorm(
                use_running_average=self.use_running_average,
                momentum=self.momentum,
                epsilon=self.epsilon,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                use_bias=use_bias,
                scale_init=self.scale_init,
                axis_name=self.axis_name,
                max_steps=self.max_steps,
                name=name,
            )
            return module(x, now, mask=counts)

        def dense(name: str, x: Array, kernel_init: Initializer) -> Array:
            return nn.Dense(
                4 * self.features,
                use_bias=False,
                kernel_init=kernel_init,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=name,
            )(x)

        bias = self.param(
            "bias", self.bias_init, (4 * self.features,), self.param_dtype
        )
        from_x = dense("input", x, self.kernel_init)
        from_h = dense("recurrent", carry.h, self.recurrent_kernel_init)
        gates = norm("norm_h", from_h, use_bias=False)
        gates = gates + norm("norm_x", from_x, use_bias=False)
        gates = gates + jnp.broadcast_to(bias.astype(gates.dtype), gates.shape)
        return lstm_step(
            carry,
            gates,
            lambda memory: norm("norm_c", memory, use_bias=True),
            self.gate_fn,
            self.activation_fn,
        )

    @nn.nowrap
    def initialize_carry(self, rng: Array, input_shape: tuple[int, ...]) -> LSTMCarry:
        """Returns the carry before the first time step.

        Args:
          rng: Key for `carry_init`.
          input_shape: Shape of the input of one time step.
        """
        batch = input_shape[:-1]
        c_key, h_key = jax.random.split(rng)
        carry = LSTMCarry(
            self.carry_init(c_key, (*batch, self.features), self.param_dtype),
            self.carry_init(h_key, (*batch, self.features), self.param_dtype),
            jnp.zeros(batch, jnp.int32),
            jnp.full(batch, jnp.iinfo(jnp.int32).max),
        )
        # A scan carries only variables that exist before it starts, and this method is
        # called just before.
        if self.scope is not None and self.is_initializing():
            self(carry, jnp.zeros(input_shape, self.param_dtype))
        return carry

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of the input."""
        return 1
