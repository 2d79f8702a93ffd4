"""Recalibrates the running statistics of a finished run, on its data and on other data.

Prints the test accuracy with the running averages of training, and with statistics
recomputed, layer by layer, from training images. It does so for the original digits,
and for digits with another contrast and brightness (pixels * 3 + 1).

  python examples/mnist/main.py --config.norm_placement=before_activation --workdir=DIR
  python examples/mnist/recalibrate.py DIR
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.box
import rich.console
import rich.table
from load_run import SavedRun
from tfds_mnist import DataUnavailableError

from jaxnorm import tools

_BATCH = 500
_HIDDEN_LAYERS = 3
# Pixels are 0 to 255; the model divides them by 255.
_INPUTS = {"as they are": lambda x: x, "pixels * 3 + 1": lambda x: 3 * x + 255}


def accuracies(workdir: Path, num_images: int) -> dict[str, tuple[float, float]]:
    """Returns test accuracies before and after, for each change of the pixels.

    Args:
      workdir: working directory of a finished run.
      num_images: number of training images for the statistics.

    Raises:
      ValueError: there is no finished run, or its normalizer has no statistics.
      tfds_mnist.DataUnavailableError: the full data set is not available.
    """
    run = SavedRun(workdir)
    run.check_statistics()
    variables, splits = run.final(), run.splits()
    train, test = splits["train"], splits["test"]

    @jax.jit
    def collect(variables: Any, images: jax.Array) -> Any:
        return run.model.apply(
            variables, images, train=False, mutable=["batch_moments"]
        )[1].get("batch_moments", {})

    @jax.jit
    def predict(variables: Any, images: jax.Array) -> jax.Array:
        return jnp.argmax(run.model.apply(variables, images, train=False), -1)

    def batches(images: np.ndarray, change: Any) -> list[np.ndarray]:
        wide = change(images.astype(np.float32))
        return [wide[i : i + _BATCH] for i in range(0, len(wide), _BATCH)]

    def accuracy(variables: Any, change: Any) -> float:
        parts = [predict(variables, x) for x in batches(test.images, change)]
        return float(np.mean(np.concatenate(parts) == test.labels))

    found = {}
    for name, change in _INPUTS.items():
        stats = tools.recalibrate(
            collect,
            variables,
            batches(train.images[:num_images], change),
            passes=_HIDDEN_LAYERS,
        )
        after = {**variables, "batch_stats": stats}
        found[name] = accuracy(variables, change), accuracy(after, change)
    return found


def main() -> None:
    """Parses the command line; a mistake gives a message and exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--num_images", type=int, default=4_000)
    arguments = parser.parse_args()
    if arguments.num_images < 1:
        parser.error(f"--num_images must be at least 1; it is {arguments.num_images}")
    try:
        found = accuracies(**vars(arguments))
    except (ValueError, DataUnavailableError) as error:
        print(f"recalibrate.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    table = rich.table.Table(
        "digits", "running averages", "recalibrated", box=rich.box.MARKDOWN
    )
    for name, (before, after) in found.items():
        table.add_row(name, f"{before:.1%}", f"{after:.1%}")
    rich.console.Console(width=80).print(table)


if __name__ == "__main__":
    main()
