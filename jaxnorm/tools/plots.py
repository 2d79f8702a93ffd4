"""Diagnoses as a table in the terminal, and as a figure over training."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxnorm.tools.diagnose import Diagnosis
from jaxnorm.tools.layer_diagnosis import FAR, RATIO

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


def _check_diagnosis(value: object, name: str) -> None:
    if not isinstance(value, Diagnosis):
        raise TypeError(
            f"{name} must be what jaxnorm.tools.diagnose returns, got "
            f"{type(value).__name__}."
        )


def diagnosis_table(diagnosis: Diagnosis) -> "Table":
    """Returns a table of one row a layer, for `rich.print`.

    The columns are, over the features: the median and the largest distance of the
    means, in running standard deviations; the smallest and the largest ratio of the
    standard deviations, the batch's over the running one; and how many features are
    dead or ill-conditioned (`|mean|` above 1,000 standard deviations). "-" stands where
    a layer does not keep the statistic.

    Args:
      diagnosis: From `jaxnorm.tools.diagnose`.

    Raises:
      ImportError: If rich is not installed; the extra `jaxnorm[show]` has it.
      TypeError: If it is not a diagnosis.
    """
    _check_diagnosis(diagnosis, "diagnosis")
    with _import_for("diagnosis_table"):
        from rich.table import Table

    table = Table(
        title="Statistics of the batch beside the running ones",
        caption="mean: distance of the means, in running standard deviations; "
        "std: the batch's over the running one; ill: |mean| above 1,000 std; "
        f"outputs in training and in inference: {diagnosis.output_gap:.2g} of their "
        "standard deviation apart",
    )
    # A long name is folded, so that it is read to its end in a narrow terminal.
    table.add_column("layer", overflow="fold")
    for column in (
        "features",
        "mean\nmedian",
        "mean\nlargest",
        "std\nsmallest",
        "std\nlargest",
        "dead",
        "ill",
    ):
        table.add_column(column, justify="right", no_wrap=True)
    for name, layer in diagnosis.layers.items():
        distance, ratio = layer.mean_distance, layer.std_ratio
        table.add_row(
            name or "(the layer)",
            str(distance.size),
            _number(np.median(distance)),
            _number(distance.max()),
            _number(ratio.min()),
            _number(ratio.max()),
            str(layer.dead.sum()),
            str(layer.ill_conditioned.sum()),
        )
    return table


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2g}"


def diagnosis_figure(history: Sequence[tuple[int, Diagnosis]]) -> "Figure":
    """Returns a figure of layers and features over training.

    Each layer has two panels with a row a feature and a column a step: how many running
    standard deviations the batch's mean is away from the running one, and the ratio of
    the standard deviations, on a logarithmic scale. A color means the same in all
    panels; the middle of the left scale, and what lies beyond the right one's inner
    ticks, is what `Diagnosis.explain` speaks of.

    Args:
      history: Steps of training, ascending, and the diagnosis at each; at least one,
        all of the same model.

    Raises:
      ImportError: If matplotlib is not installed; the extra `jaxnorm[show]` has it.
      TypeError: If it holds something else.
      ValueError: If there is none.
    """
    if isinstance(history, Diagnosis):
        raise TypeError(
            "history must hold pairs of a step and its diagnosis, got one Diagnosis. "
            "Write [(0, diagnosis)]."
        )
    for pair in history:
        alone = isinstance(pair, Diagnosis) or not isinstance(pair, tuple | list)
        if alone or len(pair) != 2:
            raise TypeError(
                "history must hold pairs of a step and its diagnosis, got "
                f"{type(pair).__name__}."
            )
        _check_diagnosis(pair[1], "history")
    with _import_for("diagnosis_figure"):
        from matplotlib.colors import LogNorm, Normalize
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

    if not history:
        raise ValueError("history must hold at least one diagnosis, got none.")
    steps = [step for step, _ in history]
    names = list(history[0][1].layers)
    figure = Figure(figsize=(9, 1.6 + 1.8 * len(names)), layout="constrained")
    panels = figure.subplots(len(names), 2, squeeze=False, sharex=True)
    columns = (
        ("mean_distance", "cividis", Normalize(0, 2 * FAR)),
        ("std_ratio", "PuOr", LogNorm(1 / RATIO / 2, RATIO * 2)),
    )
    images = []
    for column, (statistic, colors, scale) in zip(panels.T, columns, strict=True):
        for axes, name in zip(column, names, strict=True):
            layers = [diagnosis.layers[name] for _, diagnosis in history]
            values = np.stack([getattr(x, statistic).ravel() for x in layers], 1)
            image = axes.imshow(
                values,
                aspect="auto",
                origin="lower",
                interpolation="nearest",
                cmap=colors,
                norm=scale,
            )
            axes.set_title(name or "the layer", fontsize="medium")
            axes.set_ylabel("feature")
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        images.append(image)
        shown = np.unique(np.linspace(0, len(steps) - 1, 5).astype(int))
        column[-1].set_xticks(shown, [f"{steps[index]:,}" for index in shown])
        column[-1].set_xlabel("step of training")
    figure.colorbar(
        images[0],
        ax=list(panels[:, 0]),
        label="batch's mean from the running one,\nin running standard deviations",
        extend="max",
        location="bottom",
        aspect=40,
    )
    figure.colorbar(
        images[1],
        ax=list(panels[:, 1]),
        label="standard deviation,\nthe batch's over the running one",
        extend="both",
        location="bottom",
        aspect=40,
        ticks=[1 / RATIO / 2, 1 / RATIO, 1, RATIO, RATIO * 2],
        format="%.2g",
    ).minorticks_off()
    figure.suptitle(
        "Running statistics beside those of a batch; outputs of training and\n"
        f"inference, at step {steps[-1]:,}: {history[-1][1].output_gap:.2g} standard "
        "deviations apart",
        fontsize="x-large",
    )
    return figure
