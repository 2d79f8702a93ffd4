"""Evaluation of a model on all examples of a split, each counted once."""

from functools import partial
from typing import Any

import data
import jax
import numpy as np
import signals
from parallel import Parallel


def evaluate(
    parallel: Parallel, variables: Any, split: data.Split, size: int
) -> tuple[float, float]:
    """Returns mean loss and accuracy over all examples of `split`, each counted once.

    Args:
      parallel: runs steps on the devices.
      variables: collections of the model, on the host.
      split: the examples.
      size: rows of a batch, a multiple of the number of devices.
    """
    placed = parallel.place_variables(variables)
    history = []
    for start in range(0, len(split.labels), size):
        signals.check()
        indices = np.arange(start, min(start + size, len(split.labels)))
        batch = parallel.place_batch(partial(data.take, split, indices), size)
        history.append(parallel.eval_step(placed, batch))
        jax.block_until_ready(history[-2:-1])
    return means(np.sum(np.asarray(parallel.fetch(history), np.float64), axis=0))


def means(sums: np.ndarray) -> tuple[float, float]:
    """Returns mean loss and accuracy from the sums over some steps.

    Both are NaN if there were no examples, for instance if all batches were bad.
    """
    loss, correct, count, _ = sums
    if not count:
        return float("nan"), float("nan")
    return float(loss / count), float(correct / count)
