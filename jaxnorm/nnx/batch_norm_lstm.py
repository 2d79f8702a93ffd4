"""An LSTM cell with recurrent batch normalization, as a Flax NNX cell."""

from collections.abc import Callable, Sequence

from flax import nnx
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
from jaxnorm.nnx.recurrent import RecurrentBatchNorm
from jaxnorm.nnx.variables import read, show_signature

__all__ = ["BatchNormLSTMCell"]

_SMALL = MadeInitializer(nnx.initializers.constant, (0.1,))
_KERNEL = MadeInitializer(nnx.initializers.lecun_normal)
_RECURRENT = MadeInitializer(nnx.initializers.orthogonal)


@show_signature
class BatchNormLSTMCell(nnx.RNNCellBase):
    """An LSTM cell that batch-normalizes its recurrent, input and cell-state terms.

    `jaxnorm.linen.BatchNormLSTMCell` has the equations and their source. Use it in
    `nnx.RNN(cell)`, which carries the statistics from step to step, but does not pass
    `seq_lengths` to its cell. For sequences of unequal length, pass a mask with them::

        mask = jnp.arange(x.shape[1])[None] < lengths[:, None]
        rnn(jaxnorm.nnx.MaskedInputs(x, mask[..., None]), seq_lengths=lengths)

    or pass their lengths in the first carry::

        carry = cell.initialize_carry((batch, in_features), rngs)
        rnn(x, initial_carry=carry._replace(length=lengths), seq_lengths=lengths)

    Attributes:
      input: `nnx.Linear` with the kernel W_x, without bias.
      recurrent: `nnx.Linear` with the kernel W_h, without bias.
      bias: `nnx.Param`, the bias of the four gates.
      norm_x: `RecurrentBatchNorm` of W_x x, without bias.
      norm_h: `RecurrentBatchNorm` of W_h h, without bias.
      norm_c: `RecurrentBatchNorm` of the cell state, with bias.
      in_features: Number of features of the input.
      hidden_features: Number of features of cell state and output.
      max_steps: Number of time steps with statistics; later steps use the last ones.
      use_running_average: False in training, True in inference; for the three norms.
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
      rngs: Keys for the initializers.

    Example:
      >>> import jax.numpy as jnp, jaxnorm.nnx
      >>> from flax import nnx
      >>> cell = jaxnorm.nnx.BatchNormLSTMCell(3, 4, max_steps=5, rngs=nnx.Rngs(0))
      >>> x = jnp.ones((8, 5, 3))  # batch, time, features
      >>> y = nnx.jit(lambda rnn, x: rnn(x))(nnx.RNN(cell), x)
      >>> y.shape, cell.norm_x.mean.shape
      ((8, 5, 4), (5, 16))
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        max_steps: int,
        use_running_average: bool | None = False,
        momentum: float | Schedule = 0.9,
        epsilon: float = 1e-5,
        axis_name: str | Sequence[str] | None = None,
        # From lax, because jitted functions, as in jax.nn, cannot be pickled.
        gate_fn: Callable[[Array], Array] = lax.logistic,
        activation_fn: Callable[[Array], Array] = lax.tanh,
        kernel_init: Initializer = _KERNEL,
        recurrent_kernel_init: Initializer = _RECURRENT,
        bias_init: Initializer = nnx.initializers.zeros,
        scale_init: Initializer = _SMALL,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        gates = 4 * hidden_features

        def dense(inputs: int, kernel_init: Initializer) -> nnx.Linear:
            return nnx.Linear(
                inputs,
                gates,
                use_bias=False,
                kernel_init=kernel_init,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        def norm(features: int, *, use_bias: bool) -> RecurrentBatchNorm:
            return RecurrentBatchNorm(
                features,
                max_steps=max_steps,
                use_running_average=use_running_average,
                momentum=momentum,
                epsilon=epsilon,
                axis_name=axis_name,
                use_bias=use_bias,
                scale_init=scale_init,
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )

        self.input = dense(in_features, kernel_init)
        self.recurrent = dense(hidden_features, recurrent_kernel_init)
        self.bias = nnx.Param(bias_init(rngs.params(), (gates,), param_dtype))
        self.norm_x = norm(gates, use_bias=False)
        self.norm_h = norm(gates, use_bias=False)
        self.norm_c = norm(hidden_features, use_bias=True)
        self.in_features = in_features
        self.hidden_features = hidden_features
        self.gate_fn = gate_fn
        self.activation_fn = activation_fn
        self.param_dtype = param_dtype

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
          inputs: (batch, in_features), or `MaskedInputs` from the RNN.
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
        if x.shape[-1] != self.in_features:
            raise ValueError(
                f"inputs must have in_features={self.in_features} along the last axis, "
                f"got shape {x.shape}. Create the cell for these inputs: "
                f"BatchNormLSTMCell({x.shape[-1]}, {self.hidden_features}, ...)."
            )
        now = jnp.max(carry.step)
        gates = self.norm_h(self.recurrent(carry.h), now, mask=counts)
        gates = gates + self.norm_x(self.input(x), now, mask=counts)
        bias = read(self.bias).astype(gates.dtype)
        return lstm_step(
            carry,
            gates + jnp.broadcast_to(bias, gates.shape),
            lambda memory: self.norm_c(memory, now, mask=counts),
            self.gate_fn,
            self.activation_fn,
        )

    def initialize_carry(
        self,
        input_shape: tuple[int, ...],
        rngs: nnx.Rngs | nnx.RngStream | None = None,
        carry_init: Initializer | None = None,
    ) -> LSTMCarry:
        """Returns the carry before the first time step.

        Args:
          input_shape: Shape of the input of one time step.
          rngs: Keys for `carry_init`.
          carry_init: Initializer of cell state and output; by default they are 0.

        Raises:
          ValueError: If `carry_init` is given without `rngs`.
        """
        batch = input_shape[:-1]
        shape = (*batch, self.hidden_features)
        # Two arrays, so that the carry can be donated.
        c, h = (jnp.zeros(shape, self.param_dtype) for _ in range(2))
        if carry_init is not None:
            if rngs is None:
                raise ValueError(
                    "rngs must be given with carry_init, got None. Pass "
                    "rngs=nnx.Rngs(0)."
                )
            stream = rngs.carry if isinstance(rngs, nnx.Rngs) else rngs
            c, h = (carry_init(stream(), shape, self.param_dtype) for _ in range(2))
        endless = jnp.full(batch, jnp.iinfo(jnp.int32).max)
        return LSTMCarry(c, h, jnp.zeros(batch, jnp.int32), endless)

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of the input."""
        return 1
