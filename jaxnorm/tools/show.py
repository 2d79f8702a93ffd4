"""Diagnoses as a table in the terminal, and as a figure over training."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxnorm.tools.diagnose import Diagnosis

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.table import Table


@contextlib.contextmanager
def _import_for(function: str) -> Iterator[None]:
    """Says which extra has the package whose import fails in the body."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ModuleNotFoundError(
            f"{function} needs {package}, which is not installed; "
            'pip install "jaxnorm[show]"',
            name=error.name,
        ) from error


def diagnosis_table(diagnosis: Diagnosis) -> "Table":
    """Returns a table of one row a layer, for `rich.print`.

    The columns are, over the features: the median and the largest distance of the
    means, the smallest and the largest ratio of the standard deviations, and how many
    features are dead or ill-conditioned (|mean| above 1,000 standard deviations).

    Args:
      diagnosis: From `jaxnorm.tools.diagnose`.

    Raises:
      ImportError: If rich is not installed; the extra `jaxnorm[show]` has it.
    """
    with _import_for("diagnosis_table"):
        from rich.table import Table

    table = Table(
        title="Statistics of the batch beside the running ones",
        caption=f"outputs in training and in inference: {diagnosis.output_gap:.2g} of "
        "their standard deviation apart",
    )
    table.add_column("layer")
    for column in (
        "features",
        "mean, std away (median)",
        "(largest)",
        "std, ratio (smallest)",
        "(largest)",
        "dead",
        "ill-conditioned",
    ):
        table.add_column(column, justify="right")
    for name, layer in diagnosis.layers.items():
        distance, ratio = layer.mean_distance, layer.std_ratio
        table.add_row(
            name or "(the layer)",
            str(distance.size),
            f"{np.median(distance):.2g}",
            f"{distance.max():.2g}",
            f"{ratio.min():.2g}",
            f"{ratio.max():.2g}",
            str(layer.dead.sum()),
            str(layer.ill_conditioned.sum()),
        )
    return table


def diagnosis_figure(history: Sequence[tuple[int, Diagnosis]]) -> "Figure":
    """Returns a figure of layers and features over training.

    Each layer has two panels with a row a feature and a column a step: how many
    standard deviations the running mean is away from the batch's, and the ratio of the
    standard deviations on a logarithmic scale.

    Args:
      history: Steps of training, ascending, and the diagnosis at each; at least one,
        all of the same model.

    Raises:
      ImportError: If matplotlib is not installed; the extra `jaxnorm[show]` has it.
      ValueError: If there is none.
    """
    with _import_for("diagnosis_figure"):
        from matplotlib.figure import Figure

    if not history:
        raise ValueError("history must hold at least one diagnosis, got none.")
    steps = [step for step, _ in history]
    names = list(history[0][1].layers)
    figure = Figure(figsize=(9, 1 + 1.8 * len(names)), layout="constrained")
    for (left, right), name in zip(
        figure.subplots(len(names), 2, squeeze=False), names, strict=True
    ):
        layers = [diagnosis.layers[name] for _, diagnosis in history]
        distance = np.stack([layer.mean_distance.ravel() for layer in layers], 1)
        ratio = np.stack([layer.std_ratio.ravel() for layer in layers], 1)
        for axes, values, label, options in (
            (left, distance, "mean, std away", {"cmap": "cividis", "vmin": 0}),
            (
                right,
                np.log2(ratio),
                "std, ratio (log2)",
                {"cmap": "PuOr", "vmin": -1, "vmax": 1},
            ),
        ):
            image = axes.imshow(
                values,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
                **options,
            )
            axes.set(title=name or "the layer", xlabel="step", ylabel="feature")
            shown = np.unique(np.linspace(0, len(steps) - 1, 5).astype(int))
            axes.set_xticks(shown, [f"{steps[index]:,}" for index in shown])
            figure.colorbar(image, ax=axes, label=label)
    return figure
