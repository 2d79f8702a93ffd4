"""Measures the cost of the checkpoints of the MNIST example.

In one run, epochs with and without checkpoints alternate. An epoch with checkpoints
includes their whole cost: the checkpoint after the previous epoch, the checkpoints at
regular steps, and the wait until the last one is on disk, which a normal run has only
at its end.

  python examples/checkpointing.py
  python examples/checkpointing.py --pairs=30 --every=10 --directory=/mnt/slow
"""

import contextlib
import io
import runpy
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
from absl import logging
from benchmark import Row, show
from command_line import Parser, at_least

EXAMPLES = Path(__file__).resolve().parent
sys.path.insert(0, str(EXAMPLES / "mnist"))

from report import Metrics  # noqa: E402
from run_state import Progress, RunState  # noqa: E402
from train import train_and_evaluate  # noqa: E402


class Stopwatch(RunState):
    """A run state that saves checkpoints in every second epoch, and times epochs.

    Attributes:
      seconds: time of each epoch, including evaluation.
      processor_seconds: processor time of each epoch, over all threads.
    """

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []
        self._begin = time.perf_counter(), time.process_time()

    def save(self, progress: Progress, test_accuracy: float | None) -> None:
        """Saves a checkpoint, if this epoch has checkpoints."""
        if progress.epochs % 2:
            super().save(progress, test_accuracy)

    def add(self, metrics: Metrics) -> None:
        """Reports an epoch, and records its time."""
        super().add(metrics)
        self.wait()
        now = time.perf_counter(), time.process_time()
        self.seconds.append(now[0] - self._begin[0])
        self.processor_seconds.append(now[1] - self._begin[1])
        self._begin = now


def measure(
    pairs: int, every: int, num_train: int | None, directory: Path | None
) -> Stopwatch:
    """Trains on the embedded digits; returns the times of all epochs.

    Args:
      pairs: number of pairs of epochs, without and with checkpoints. Two more epochs
        precede them, for warm-up, and one without checkpoints follows.
      every: steps between checkpoints.
      num_train: number of training digits; None uses all 4,000.
      directory: directory of the checkpoints; None uses the temporary directory.
    """
    config = runpy.run_path(str(EXAMPLES.parent / "configs" / "default.py"))
    config = config["get_config"]()
    config.num_epochs = 2 * pairs + 3
    config.checkpoint_every = every
    config.num_train = num_train
    run_states = []

    def run_state(*arguments) -> Stopwatch:
        run_states.append(Stopwatch(*arguments))
        return run_states[0]

    with (
        tempfile.TemporaryDirectory(dir=directory) as workdir,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        train_and_evaluate(config, Path(workdir), run_state=run_state)
    return run_states[0]


def row(name: str, seconds: list[float]) -> Row:
    """Compares epochs with checkpoints to the mean of the epochs before and after."""
    # The first two epochs are warm-up.
    without, saving = seconds[2::2], seconds[3::2]
    longer = [
        2 * middle / (before + after) - 1
        for before, middle, after in zip(without, saving, without[1:], strict=False)
    ]
    low, median, high = statistics.quantiles(longer, n=4)
    return {
        "time": name,
        "an epoch without, s": f"{statistics.median(without):.3f}",
        "with, s": f"{statistics.median(saving):.3f}",
        "longer by": f"{median:+.1%}",
        "quartiles": f"{low:+.1%} {high:+.1%}",
    }


def main() -> None:
    """Parses the flags, measures, and prints the table."""
    parser = Parser(__doc__)
    parser.add_argument(
        "--pairs", type=at_least(2), default=20, help="of epochs, at least 2"
    )
    parser.add_argument("--every", type=at_least(1), default=50, help="steps")
    parser.add_argument(
        "--num_train", type=at_least(1), help="number of digits; default: all 4,000"
    )
    parser.add_argument("--directory", type=Path, help="default: a temporary one")
    flags = parser.parse_args()
    if flags.directory and not flags.directory.is_dir():
        parser.error(f"--directory={flags.directory} is not there")

    logging.set_verbosity(logging.FATAL)
    # Before JAX looks for devices; of no effect on accelerators.
    jax.config.update("jax_num_cpu_devices", 4)
    times = measure(flags.pairs, flags.every, flags.num_train, flags.directory)
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.device_kind} ({device.platform})")
    show(
        f"The MNIST example with a checkpoint every {flags.every} steps",
        iter(
            [
                row("wall", times.seconds),
                row("processor", times.processor_seconds),
            ]
        ),
    )


if __name__ == "__main__":
    main()
