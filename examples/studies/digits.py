"""The digits on the device, and the order of the training examples."""

import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from study import StudyError

# The MNIST example reads the digits; its files import each other by bare names.
sys.path.append(str(Path(__file__).resolve().parents[1] / "mnist"))
import data


class Examples(NamedTuple):
    """Images and their labels.

    Attributes:
      images: (N, H, W, 1) float32 in [0, 1].
      labels: (N,) int32, 0 to 9.
    """

    images: jax.Array
    labels: jax.Array


class Digits(NamedTuple):
    """Training and test examples."""

    train: Examples
    test: Examples


def load(config: ml_collections.ConfigDict) -> Digits:
    """Returns the digits that `config` names, averaged over blocks of pixels.

    Raises:
      StudyError: the blocks do not divide the images.
      DataUnavailableError: the full data set is not available.
    """
    train, test = data.load(
        ml_collections.ConfigDict(
            {
                "dataset": "mnist" if config.size == "full" else "embedded",
                "data_dir": config.data_dir,
                "num_train": config.num_train,
                "num_test": config.num_test,
            }
        )
    )
    if config.pool < 1 or 28 % config.pool:
        raise StudyError(f"config.pool must divide 28; it is {config.pool}")
    return Digits(*(_place(split, config.pool) for split in (train, test)))


def order(
    key: jax.Array, num_examples: int, batch_size: int, num_steps: int
) -> jax.Array:
    """Returns the examples of each step, a pure function of key and step.

    Every epoch is another permutation; examples after its last complete batch are not
    used.

    Args:
      key: random key.
      num_examples: number of examples to draw from.
      batch_size: at most `num_examples`.
      num_steps: at least 1.

    Returns:
      (num_steps, batch_size) int32 indices.
    """
    per_epoch = num_examples // batch_size
    keys = jax.random.split(key, -(-num_steps // per_epoch))
    epochs = jax.vmap(lambda key: jax.random.permutation(key, num_examples))(keys)
    batches = epochs[:, : per_epoch * batch_size].reshape((-1, batch_size))
    return batches[:num_steps]


def _place(split: data.Split, pool: int) -> Examples:
    side = 28 // pool
    blocks = split.images.reshape((-1, side, pool, side, pool, 1))
    images = np.mean(blocks, axis=(2, 4), dtype=np.float32) / np.float32(255)
    return Examples(jnp.asarray(images), jnp.asarray(split.labels))
