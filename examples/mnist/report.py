"""Reports of a run in its working directory: JSON lines, TensorBoard, curves."""

import json
from pathlib import Path
from typing import NamedTuple, Self

from checkpoint import write_atomically
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from tensorboardX import SummaryWriter


class Metrics(NamedTuple):
    """Results of one epoch.

    Attributes:
      epoch: counted from 1.
      train_loss: mean over the examples of the epoch, during training.
      train_accuracy: fraction over the same examples, in [0, 1].
      test_loss: mean over the test split, after the epoch.
      test_accuracy: fraction over the test split, in [0, 1].
      images_per_second: speed of training steps since this process started or continued
        the epoch, without compilation and evaluation.
      stats_spread: the largest difference of a running statistic between devices.
      bad_batches: number of batches with a loss, gradient or statistic that is not
        finite.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    images_per_second: float
    stats_spread: float
    bad_batches: int

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch}"
            f" | train loss {self.train_loss:.4f} accuracy {self.train_accuracy:.2%}"
            f" | test loss {self.test_loss:.4f} accuracy {self.test_accuracy:.2%}"
            f" | {self.images_per_second:,.0f} images/s"
            f" | stats_spread {self.stats_spread:.2g}"
            + f" | bad batches {self.bad_batches}"
            * (self.bad_batches > 0)
        )


class Report:
    """Writes the metrics of each epoch as soon as it ends; a context manager.

    Args:
      workdir: an existing directory.
      epochs: metrics of the finished epochs. Files with more or fewer are corrected.

    Attributes:
      epochs: the metrics so far.
    """

    def __init__(self, workdir: Path, epochs: list[Metrics]):
        self.epochs = epochs
        self._workdir = workdir
        path = workdir / "metrics.jsonl"
        write_atomically(path, "".join(_line(metrics) for metrics in epochs))
        self._lines = path.open("a")
        self._events = SummaryWriter(str(workdir), purge_step=len(epochs) + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self._lines.close()
        self._events.close()

    def add(self, metrics: Metrics) -> None:
        """Appends one epoch to `metrics.jsonl` and to the TensorBoard events."""
        self.epochs.append(metrics)
        self._lines.write(_line(metrics))
        self._lines.flush()
        values = metrics._asdict()
        epoch = values.pop("epoch")
        for name, value in values.items():
            self._events.add_scalar(name, value, epoch)
        self._events.flush()

    def draw_curves(self) -> None:
        """Draws loss and accuracy over epochs into `curves.png`."""
        draw_curves(self.epochs).savefig(self._workdir / "curves.png", dpi=150)


def draw_curves(epochs: list[Metrics]) -> Figure:
    """Returns a figure of loss and accuracy over at least one epoch."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    last = epochs[-1]
    figure.suptitle(
        f"{last.test_accuracy:.1%} of the test images right after epoch {last.epoch}",
        fontsize="x-large",
    )
    numbers = [metrics.epoch for metrics in epochs]
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, label in (
            ("train", "training images, during the epoch"),
            ("test", "test images, after it"),
        ):
            values = [getattr(metrics, f"{split}_{quantity}") for metrics in epochs]
            axes.plot(numbers, values, marker="o", label=label)
        axes.set(
            xlabel="epoch", ylabel=quantity, xlim=(numbers[0] - 0.5, numbers[-1] + 0.5)
        )
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.axes[1].yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def _line(metrics: Metrics) -> str:
    return json.dumps(metrics._asdict()) + "\n"
