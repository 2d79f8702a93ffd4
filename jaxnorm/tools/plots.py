"""A table of one diagnosis, and a figure of several diagnoses over training."""

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
    """Names the extra to install if an import in the body fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise ModuleNotFoundError(
            f"{function} needs {package}, which is not installed. Install it with "
            'pip install "jaxnorm[show]".',
            name=error.name,
        ) from error


def _check_diagnosis(value: object, name: str) -> None:
    """Raises TypeError if a value is not a `Diagnosis`."""
    if not isinstance(value, Diagnosis):
        raise TypeError(
            f"{name} must be a Diagnosis, as jaxnorm.tools.diagnose returns it, got "
            f"{type(value).__name__}."
        )


def diagnosis_table(diagnosis: Diagnosis) -> "Table":
    """Returns a table with one row per layer, for `rich.print`.

    The columns summarize the features of a layer: the median and the largest distance
    of the means, in running standard deviations; the smallest and the largest ratio of
    the standard deviations, of the batch to the running one; and the numbers of dead
    and ill-conditioned features (`|mean|` above 1,000 standard deviations). "-" means
    that a layer does not keep the statistic.

    Args:
      diagnosis: From `jaxnorm.tools.diagnose`.

    Raises:
      ImportError: If rich is not installed; the extra `jaxnorm[show]` has it.
      TypeError: If `diagnosis` is not a `Diagnosis`.
    """
    _check_diagnosis(diagnosis, "diagnosis")
    with _import_for("diagnosis_table"):
        from rich.table import Table

    table = Table(
        title="Batch statistics compared with running statistics",
        caption="mean: distance of the means, in running standard deviations; "
        "std: ratio of the batch's to the running one; ill: |mean| above 1,000 std; "
        "outputs in training and in inference differ by "
        f"{diagnosis.output_gap:.2g} of their standard deviation",
    )
    # Long names wrap, so that a narrow terminal shows them in full.
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
    """Returns a number as text, with "-" for NaN."""
    return "-" if np.isnan(value) else f"{value:.2g}"


def diagnosis_figure(history: Sequence[tuple[int, Diagnosis]]) -> "Figure":
    """Returns a figure of the statistics of all layers and features over training.

    Each layer has two panels, with a row per feature and a column per step. The left
    panel shows the distance of the batch mean from the running mean, in running
    standard deviations. The right panel shows the ratio of the standard deviations, on
    a logarithmic scale. All panels of a column share one color scale. Values above the
    middle of the left scale, or outside the inner ticks of the right scale, are those
    that `Diagnosis.explain` reports.

    Args:
      history: At least one pair of a training step and its diagnosis, by ascending
        step; all of the same model.

    Raises:
      ImportError: If matplotlib is not installed; the extra `jaxnorm[show]` has it.
      TypeError: If `history` is not a sequence of such pairs.
      ValueError: If `history` is empty, or its diagnoses are of different layers.
    """
    if isinstance(history, Diagnosis):
        raise TypeError(
            "history must hold pairs of a step and its diagnosis, got one Diagnosis. "
            "Write [(0, diagnosis)]."
        )
    if not isinstance(history, Sequence):
        raise TypeError(
            "history must be a sequence of pairs of a step and its diagnosis, got "
            f"{type(history).__name__}. Pass list(history), or for a dict "
            "list(history.items())."
        )
    for pair in history:
        alone = isinstance(pair, Diagnosis) or not isinstance(pair, tuple | list)
        if alone or len(pair) != 2:
            raise TypeError(
                "history must hold pairs of a step and its diagnosis, got "
                f"{type(pair).__name__}. Write [(step, diagnosis), ...]."
            )
        _check_diagnosis(pair[1], "history")
    with _import_for("diagnosis_figure"):
        from matplotlib.colors import LogNorm, Normalize
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

    if not history:
        raise ValueError(
            "history must hold at least one diagnosis, got none. Write "
            "[(step, diagnosis), ...]."
        )
    steps = [step for step, _ in history]
    names = list(history[0][1].layers)
    for step, diagnosis in history:
        if diagnosis.layers.keys() != set(names):
            raise ValueError(
                f"history must hold diagnoses of one model, got the layers {names} at "
                f"step {steps[0]} and {list(diagnosis.layers)} at step {step}."
            )
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
        label="distance of batch and running mean,\nin running standard deviations",
        extend="max",
        location="bottom",
        aspect=40,
    )
    figure.colorbar(
        images[1],
        ax=list(panels[:, 1]),
        label="standard deviation,\nratio of batch to running",
        extend="both",
        location="bottom",
        aspect=40,
        ticks=[1 / RATIO / 2, 1 / RATIO, 1, RATIO, RATIO * 2],
        format="%.2g",
    ).minorticks_off()
    figure.suptitle(
        f"At step {steps[-1]:,}, outputs in training and in inference differ by\n"
        f"{history[-1][1].output_gap:.2g} standard deviations",
        fontsize="x-large",
    )
    return figure
