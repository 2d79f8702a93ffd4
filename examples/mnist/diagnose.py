"""Tells what the running statistics of a run do, from its working directory.

Compares them, layer by layer, with the statistics of some images, and says in words
what is unusual; draws how that was over training, as far as checkpoints are kept.

  python examples/mnist/diagnose.py WORKDIR
  python examples/mnist/diagnose.py WORKDIR --split=train --num_images=1000
"""

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import data
import jax
import ml_collections
import rich.console
from checkpoint import find_damage, load_variables
from model import CNN, create_model
from optimizer import create_optimizer
from tfds_mnist import DataUnavailableError
from train import create_state
from workdir import DESCRIPTION

from jaxnorm import tools


def load_states(
    workdir: Path, config: ml_collections.ConfigDict, model: CNN
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the steps of whole checkpoints, ascending, and the variables at each.

    Args:
      workdir: of the run.
      config: of the run; its statistics are synchronized.
      model: of the run.
    """
    state = create_state(model, create_optimizer(config, num_steps=1), config.seed)
    like = jax.device_get(state)
    directory = workdir / "checkpoints"
    steps = [int(path.name) for path in directory.glob("*") if path.name.isdigit()]
    for step in sorted(steps):
        if find_damage(directory / str(step)) is None:
            state = load_variables(directory / str(step) / "state", like)
            yield step, {"params": state.params, "batch_stats": state.batch_stats}


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
    if not (workdir / DESCRIPTION).is_file():
        raise ValueError(f"{workdir} holds no run: there is no {DESCRIPTION}")
    described = json.loads((workdir / DESCRIPTION).read_text())
    config = ml_collections.ConfigDict(described["config"])
    model = create_model(config, axis_name=None)
    train, test = data.load(config)
    images = {"train": train, "test": test}[split].images[:num_images]

    @partial(jax.jit, static_argnums=2)
    def apply(variables: Any, images: jax.Array, train: bool) -> tuple[jax.Array, Any]:
        # Statistics may move while a model trains; here they are dropped.
        logits, updates = model.apply(
            variables, images, train=train, mutable=["batch_moments", "batch_stats"]
        )
        return logits, updates.get("batch_moments", {})

    history = []
    if config.sync:  # else checkpoints hold the statistics of each device
        history += load_states(workdir, config, model)
    if not history and (workdir / "variables").is_dir():
        like = jax.device_get(
            model.init(jax.random.key(config.seed), images[:1], train=False)
        )
        history.append((0, load_variables(workdir / "variables", like)))
    if not history:
        raise ValueError(f"{workdir} holds neither variables nor a whole checkpoint")
    found = [
        (step, tools.diagnose(apply, variables, images)) for step, variables in history
    ]
    console = rich.console.Console(width=120)
    console.print(tools.diagnosis_table(found[-1][1]))
    tools.diagnosis_figure(found).savefig(workdir / "diagnosis.png", dpi=100)
    return found[-1][1].explain()


def main() -> None:
    """Parses the command line; a mistake in it is one line and exit code 2."""
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
