"""Tells what the running statistics of a run do, from its working directory.

Compares them, layer by layer, with the statistics of some images, and says in words
what is unusual; draws how that was over training, as far as checkpoints are kept.

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
    """Prints a table, draws `diagnosis.png`, and returns what was found in words.

    Args:
      workdir: of the run.
      split: "train" or "test": where the images come from.
      num_images: how many, at least 2.

    Raises:
      ValueError: there is no run, or its normalizer keeps no running statistics.
      tfds_mnist.DataUnavailableError: the full data set cannot be had.
    """
    run = SavedRun(workdir)
    run.check_statistics()
    images = run.splits()[split].images[:num_images]

    @partial(jax.jit, static_argnums=2)
    def apply(variables: Any, images: jax.Array, train: bool) -> tuple[jax.Array, Any]:
        # Statistics may move while a model trains; here they are dropped.
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
    """Parses the command line; a mistake in it is told, with exit code 2."""
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
