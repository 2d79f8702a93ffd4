"""The classic small convolutional network for MNIST."""

import jax
import jax.numpy as jnp
import ml_collections
import model_nnx
from flax import linen as nn
from flax import nnx
from norms import NORMS, Norm, NormOptions

import jaxnorm

WIDTHS = (32, 64, 128)  # features of the hidden layers


class CNN(nn.Module):
    """Two convolutions and two dense layers, with normalized hidden layers.

    Parameters, statistics and logits are float32; `dtype` is used for computation.

    Attributes:
      norm: the normalizer of hidden layers.
      norm_options: options for `norm`.
      norm_placement: "before_activation" or "after_activation"; no effect if the
        normalizer includes the activation.
      dropout_rate: fraction of each dense layer's input to drop, in [0, 1).
      dtype: float32 or bfloat16.
    """

    norm: Norm
    norm_options: NormOptions
    norm_placement: str = "after_activation"
    dropout_rate: float = 0.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        images: jax.Array,
        *,
        mask: jax.Array | None = None,
        dropout_keys: jax.Array | None = None,
        train: bool,
    ) -> jax.Array:
        """Returns logits.

        Args:
          images: (N, 28, 28, 1) uint8.
          mask: (N,) bool, False for padding, which affects no statistic; None means no
            padding.
          dropout_keys: (N,) random keys, one for each image; None means no dropout.
          train: whether to normalize by the statistics of this batch.

        Returns:
          (N, 10) float32.
        """
        if mask is None:
            mask = jnp.ones(images.shape[:1], bool)

        def hidden(layer: nn.Module, x: jax.Array) -> jax.Array:
            x = self.norm.wrap(layer, train)(x)
            make = self.norm.make
            if isinstance(layer, nn.Dense):
                make = self.norm.make_dense or make
            norm = make(self.norm_options, train)
            x_mask = mask.reshape((-1,) + (1,) * (x.ndim - 1))
            if self.norm.activates:
                return norm(x, mask=x_mask)
            if self.norm_placement == "before_activation":
                return nn.relu(norm(x, mask=x_mask))
            return norm(nn.relu(x), mask=x_mask)

        dropout = nn.Dropout(self.dropout_rate, deterministic=False, parent=None)

        def drop(x: jax.Array, layer: int) -> jax.Array:
            if dropout_keys is None or not self.dropout_rate:
                return x
            # Keys belong to examples, so that results do not depend on the device.
            keys = jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, layer)
            return jax.vmap(lambda row, key: dropout.apply({}, row, rng=key))(x, keys)

        x = (images.astype(jnp.float32) / 255).astype(self.dtype)
        first, second, third = WIDTHS
        x = hidden(nn.Conv(first, (3, 3), padding="VALID", dtype=self.dtype), x)
        x = hidden(nn.Conv(second, (3, 3), padding="VALID", dtype=self.dtype), x)
        x = nn.max_pool(x, (2, 2), strides=(2, 2))
        x = drop(x.reshape((x.shape[0], -1)), 0)
        x = drop(hidden(nn.Dense(third, dtype=self.dtype), x), 1)
        return nn.Dense(10, dtype=self.dtype)(x).astype(jnp.float32)


def create_model(
    config: ml_collections.ConfigDict, axis_name: str | None, num_steps: int = 160_000
) -> CNN | model_nnx.Functional:
    """Returns the model that `config` describes; NNX models get `init` and `apply`.

    Args:
      config: see `configs/default.py`.
      axis_name: the device axis over which statistics are synchronized, or None.
      num_steps: steps of the run, for the schedule of batch renorm; by default the
        schedule of the paper.
    """
    momentum = config.bn_momentum
    if config.bn_momentum_warmup:
        momentum = jaxnorm.warmup_momentum(limit=momentum)
    dtype = jnp.dtype(config.compute_dtype)
    options = {
        "norm_options": NormOptions(
            axis_name=axis_name,
            momentum=momentum,
            dtype=dtype,
            num_groups=config.num_groups,
            virtual_batch_size=config.virtual_batch_size,
            num_steps=num_steps,
        ),
        "norm_placement": config.norm_placement,
        "dropout_rate": config.dropout_rate,
        "dtype": dtype,
    }
    if config.api == "linen":
        return CNN(norm=NORMS[config.norm], **options)

    def make(rngs: nnx.Rngs) -> model_nnx.CNN:
        return model_nnx.CNN(WIDTHS, config.norm, **options, rngs=rngs)

    return model_nnx.Functional(make)
