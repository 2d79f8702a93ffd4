"""Diagnoses the running statistics of a run, from its working directory.

Compares them, layer by layer, with the statistics of some images, and explains what is
unusual. Draws the comparison over training, for the checkpoints that are kept.

  python examples/mnist/diagnose.py WORKDIR
  python examples/mnist/diagnose.py WORKDIR --split=train --num_images=1000
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import rich.console
from load_run import SavedRun
from tfds_mnist import DataUnavailableError

from jaxnorm import tools


def diagnose(workdir: Path, split: str, num_images: int) -> list[str]:
    """Prints a table, draws `diagnosis.png`, and returns the findings as sentences.

    Args:
      workdir: working directory of the run.
      split: split of the images, "train" or "test".
      num_images: number of images, at least 2.

    Raises:
      ValueError: there is no run, or its normalizer keeps no running statistics.
      tfds_mnist.DataUnavailableError: the full data set is not available.
    """
    run = SavedRun(workdir)
    run.check_statistics()
    images = run.splits()[split].images[:num_images]

    @partial(jax.jit, static_argnums=2)
    def apply(variables: Any, images: jax.Array, train: bool) -> tuple[jax.Array, Any]:
        # Updates of the statistics in training mode are dropped.
        logits, updates = run.model.apply(
            variables, images, train=train, mutable=["batch_moments", "batch_stats"]
        )
        return logits, updates.get("batch_moments", {})

    history = list(run.states()) or [(0, run.final())]
    found = [
        (step, tools.diagnose(apply, variables, images)) for step, variables in history
    ]
    console = rich.console.Console(width=120)
    console.print(tools.diagnosis_table(found[-1][1]))
    tools.diagnosis_figure(found).savefig(workdir / "diagnosis.png", dpi=100)
    return found[-1][1].explain()


def main() -> None:
    """Parses the command line; a mistake gives a message and exit code 2."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--split", choices=("train", "test"), default="test")
    parser.add_argument("--num_images", type=int, default=512)
    arguments = parser.parse_args()
    if arguments.num_images < 2:
        parser.error(f"--num_images must be at least 2; it is {arguments.num_images}")
    try:
        for sentence in diagnose(**vars(arguments)):
            print(f"* {sentence}")
    except (ValueError, DataUnavailableError) as error:
        print(f"diagnose.py: error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"see {arguments.workdir / 'diagnosis.png'}")


if __name__ == "__main__":
    main()
