"""Networks that read a digit as a sequence of rows of pixels.

They have the call of `nets.Net`. Evaluation uses running statistics, with which
examples do not affect each other, so the recurrent networks need no mask of the
padding.
"""

import jax
import jax.numpy as jnp
import ml_collections
import nets
from flax import linen as nn
from norms import NORMS, NormOptions
from study import StudyError

import jaxnorm.linen

MODELS = (
    *(f"LSTM, {norm}" for norm in ("none", "layer", "recurrent_batch")),
    *(f"transformer, {norm}" for norm in ("none", "layer", "rms", "group", "batch")),
    "transformer, dynamic_tanh",
)


class LSTMCell(nn.RNNCellBase):
    """An LSTM, optionally with layer norm (Ba et al., 2016, supplement).

    Attributes:
      features: features of the cell state and of the output.
      normalize: whether to use layer norm.
    """

    features: int
    normalize: bool

    @nn.compact
    def __call__(self, carry, x: jax.Array):
        """Takes one time step."""

        def norm(x: jax.Array) -> jax.Array:
            return jaxnorm.linen.LayerNorm()(x) if self.normalize else x

        c, h = carry
        orthogonal = nn.initializers.orthogonal()
        gates = norm(nn.Dense(4 * self.features)(x))
        gates += norm(
            nn.Dense(4 * self.features, use_bias=False, kernel_init=orthogonal)(h)
        )
        forget, into, out, new = jnp.split(gates, 4, axis=-1)
        c = nn.sigmoid(forget) * c + nn.sigmoid(into) * jnp.tanh(new)
        h = nn.sigmoid(out) * jnp.tanh(norm(c))
        return (c, h), h

    @nn.nowrap
    def initialize_carry(self, rng: jax.Array, input_shape: tuple[int, ...]):
        """Returns the cell state and output before the first time step, zeros."""
        zeros = jnp.zeros((*input_shape[:-1], self.features))
        return zeros, zeros

    @property
    def num_feature_axes(self) -> int:
        """The number of feature axes of the input."""
        return 1


class LSTM(nn.Module):
    """An LSTM over all rows that classifies the digit from the last state.

    Attributes:
      norm: "none", "layer" or "recurrent_batch".
      features: features of the state.
      momentum: momentum of running statistics.
    """

    norm: str
    features: int
    momentum: float

    @nn.compact
    def __call__(
        self, images: jax.Array, *, mask=None, dropout_key=None, train: bool
    ) -> jax.Array:
        """Returns logits, (N, 10), of images, (N, H, W, 1)."""
        rows = images[..., 0]
        if self.norm == "recurrent_batch":
            cell = jaxnorm.linen.BatchNormLSTMCell(
                self.features,
                max_steps=rows.shape[1],
                use_running_average=not train,
                momentum=self.momentum,
            )
        else:
            cell = LSTMCell(self.features, normalize=self.norm == "layer")
        if train or self.is_initializing():
            rnn = nn.RNN(cell, variable_carry="batch_stats")
        else:
            rnn = nn.RNN(cell, variable_broadcast=("params", "batch_stats"))
        return nn.Dense(10)(rnn(rows)[:, -1])


class Transformer(nn.Module):
    """A transformer over all rows, with a norm before each branch and at the end.

    Attributes:
      norm: a name in `NORMS` of the MNIST example.
      options: options for the norm.
      features: features of each row.
      num_blocks: blocks of attention and a dense network with one hidden layer.
      num_heads: heads of the attention.
    """

    norm: str
    options: NormOptions
    features: int
    num_blocks: int
    num_heads: int

    @nn.compact
    def __call__(
        self, images: jax.Array, *, mask=None, dropout_key=None, train: bool
    ) -> jax.Array:
        """Returns logits, (N, 10), of images, (N, H, W, 1)."""
        rows = images[..., 0]
        if mask is None:
            mask = jnp.ones(len(rows), bool)

        def norm(x: jax.Array) -> jax.Array:
            make = NORMS[self.norm].make
            return make(self.options, train)(x, mask=mask[:, None, None])

        small = nn.initializers.normal(0.02)
        places = self.param("places", small, (rows.shape[1], self.features))
        x = nn.Dense(self.features)(rows) + places[None]
        for _ in range(self.num_blocks):
            x += nn.MultiHeadDotProductAttention(self.num_heads)(norm(x))
            hidden = nn.gelu(nn.Dense(4 * self.features)(norm(x)))
            x += nn.Dense(self.features)(hidden)
        return nn.Dense(10)(norm(x).mean(1))


def create(config: ml_collections.ConfigDict, model: str) -> LSTM | Transformer:
    """Returns the network that `config` describes.

    Args:
      config: configuration of the study; see `configs/study_sequence.py`.
      model: one of `MODELS`.

    Raises:
      StudyError: heads or groups do not fit the features.
    """
    kind, norm = model.split(", ")
    if kind == "LSTM":
        return LSTM(norm, config.features, config.bn_momentum)
    for name in ("num_heads", "num_groups"):
        if config.features % config[name]:
            raise StudyError(
                f"config.{name} must divide config.features, {config.features}; it is "
                f"{config[name]}"
            )
    return Transformer(
        norm,
        nets.norm_options(config),
        config.features,
        config.num_blocks,
        config.num_heads,
    )
