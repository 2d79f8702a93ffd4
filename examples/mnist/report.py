"""What a run leaves in its working directory: JSON lines, TensorBoard, curves."""

import json
from pathlib import Path
from typing import NamedTuple, Self

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from tensorboardX import SummaryWriter


class Metrics(NamedTuple):
    """Results of one epoch.

    Attributes:
      epoch: counted from 1.
      train_loss: mean over the examples of the epoch, while training went on.
      train_accuracy: likewise; in [0, 1].
      test_loss: mean over the test split, after the epoch.
      test_accuracy: likewise; in [0, 1].
      images_per_second: of training steps alone, without compilation and evaluation.
      stats_spread: the largest difference of a running statistic between devices.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    images_per_second: float
    stats_spread: float

    def __str__(self) -> str:
        return (
            f"epoch {self.epoch}"
            f" | train loss {self.train_loss:.4f} accuracy {self.train_accuracy:.2%}"
            f" | test loss {self.test_loss:.4f} accuracy {self.test_accuracy:.2%}"
            f" | {self.images_per_second:,.0f} images/s"
            f" | stats_spread {self.stats_spread:.2g}"
        )


class Report:
    """Writes each epoch as soon as it is over; a context manager.

    Attributes:
      epochs: the metrics so far.
    """

    def __init__(self, workdir: Path):
        self.epochs: list[Metrics] = []
        self._workdir = workdir
        self._lines = (workdir / "metrics.jsonl").open("w")
        self._events = SummaryWriter(str(workdir))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception) -> None:
        self._lines.close()
        self._events.close()

    def add(self, metrics: Metrics) -> None:
        """Appends one epoch to `metrics.jsonl` and to the TensorBoard events."""
        self.epochs.append(metrics)
        values = metrics._asdict()
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()
        epoch = values.pop("epoch")
        for name, value in values.items():
            self._events.add_scalar(name, value, epoch)
        self._events.flush()

    def draw_curves(self) -> None:
        """Draws loss and accuracy over epochs into `curves.png`."""
        figure = Figure(figsize=(9, 3.5), layout="constrained")
        epochs = [metrics.epoch for metrics in self.epochs]
        for axes, quantity in zip(
            figure.subplots(1, 2), ("loss", "accuracy"), strict=True
        ):
            for split in ("train", "test"):
                values = [getattr(m, f"{split}_{quantity}") for m in self.epochs]
                axes.plot(epochs, values, marker="o", label=split)
            axes.set(xlabel="epoch", ylabel=quantity)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            axes.legend()
        figure.savefig(self._workdir / "curves.png", dpi=150)
