"""The full MNIST through TensorFlow Datasets, without TensorFlow where possible.

TFDS reads array_record files by itself; it needs TensorFlow to read TFRECORD files and
to prepare a data set.
"""

import importlib.util
import queue
import threading
from pathlib import Path

import numpy as np

# The URL from which TFDS downloads MNIST, and its files.
_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
_BLOCK = 10_000  # Reading one record at a time takes three times as long.


class DataUnavailableError(RuntimeError):
    """MNIST can neither be read nor prepared; the message says what to do."""


def load_arrays(
    data_dir: str | None, num_train: int | None = None, num_test: int | None = None
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Returns the images, (N, 28, 28, 1) uint8, and labels, (N,) int32, of both splits.

    Args:
      data_dir: data directory of TFDS; None means the value of the environment variable
        TFDS_DATA_DIR, or else ~/tensorflow_datasets.
      num_train: number of training examples to read, from the first; None reads all.
      num_test: number of test examples to read, from the first; None reads all.

    Raises:
      DataUnavailableError: MNIST is not available. It is raised at once, whereas TFDS
        would try a missing network for minutes.
    """
    # Imported here, because the import is slow and the embedded digits do not need it.
    import tensorflow_datasets as tfds

    # No file_format, because TFDS then refuses copies in the other format.
    builder = tfds.builder("mnist", data_dir=data_dir)
    if not builder.is_prepared():
        _check_can_prepare(builder)
        # Later runs can read this copy without TensorFlow.
        builder = tfds.builder("mnist", data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
    splits = [
        name if size is None else f"{name}[:{size}]"
        for name, size in (("train", num_train), ("test", num_test))
    ]
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        train, test = (_read_array_record(builder, split) for split in splits)
        return train, test
    if not _has_tensorflow():
        raise DataUnavailableError(
            f"the MNIST in {builder.data_dir} is a {builder.info.file_format.value} "
            "copy, which only TensorFlow can read, and it is not installed; either "
            "`pip install tensorflow`, or name another --config.data_dir, where an "
            "array_record copy is or can be made"
        )
    train, test = (_read_with_tensorflow(builder, split) for split in splits)
    return train, test


def _read_array_record(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    source = builder.as_data_source(split=split)
    images = np.empty((len(source), 28, 28, 1), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _BLOCK):
        block = range(start, min(start + _BLOCK, len(source)))
        for i, example in zip(block, source.__getitems__(block), strict=True):
            images[i], labels[i] = example["image"], example["label"]
    return images, labels


def _read_with_tensorflow(builder, split: str) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    whole = tfds.as_numpy(builder.as_dataset(split=split, batch_size=-1))
    return whole["image"], whole["label"].astype(np.int32)


def _check_can_prepare(builder) -> None:
    root = Path(builder.data_dir).parents[1]
    manual = root / "downloads" / "manual"
    has_files = all((manual / name).is_file() for name in _FILES)
    missing = []
    if not _has_tensorflow():
        missing.append("TensorFlow is not installed")
    if not has_files and not _answers(_URL):
        missing.append("its download site does not answer")
    if missing:
        raise DataUnavailableError(
            f"there is no MNIST in {root}, and it cannot be prepared: "
            f"{' and '.join(missing)}; either name a directory that has it with "
            "--config.data_dir or TFDS_DATA_DIR; or `pip install tensorflow` and, "
            f"without a network, put {', '.join(_FILES)} into {manual}; or leave out "
            "--config=configs/mnist.py to train on the embedded 5,000 digits"
        )


def _has_tensorflow() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _answers(url: str, seconds: float = 4.0) -> bool:
    import requests

    answers = queue.SimpleQueue()

    def ask():
        try:
            requests.head(url, timeout=seconds)
            answers.put(True)
        except requests.RequestException:
            answers.put(False)

    # In a separate thread, because the timeout of a request does not cover DNS.
    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return False
