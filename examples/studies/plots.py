"""Drawing of the figures of all studies."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Distinguishable with color blindness (Okabe and Ito, 2008).
COLOURS = (
    "#0072B2",  # blue
    "#D55E00",  # vermilion
    "#009E73",  # green
    "#CC79A7",  # purple
    "#E69F00",  # orange
    "#56B4E9",  # sky blue
    "#000000",  # black
    "#F0E442",  # yellow
)
# Markers, so that lines do not differ only by color.
MARKERS = "osD^vXP*"
_STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
}
_SPREAD = "mean over seeds; bands and bars: from the lowest to the highest of them"


def new(
    message: str, columns: int = 1, rows: int = 1, height: float = 3.6, **options
) -> tuple[Figure, np.ndarray]:
    """Returns a figure 800 pixels wide and its axes, (rows, columns).

    Args:
      message: the finding in one sentence, as the title.
      columns: number of columns of axes.
      rows: number of rows of axes.
      height: height of the figure, in hundreds of pixels.
      **options: options of `Figure.subplots`, such as `sharey=True`.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8, height), dpi=100, layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, **options)
    # Titles of panels have the size "large".
    figure.suptitle(textwrap.fill(message, 64), fontsize="x-large")
    figure.supxlabel(_SPREAD, fontsize="small", color="0.3")
    return figure, axes


def line(
    axes: Axes,
    x: Sequence[float],
    by_seed: Sequence,
    label: str,
    index: int,
    *,
    style: str = "-",
) -> None:
    """Draws the mean over seeds, and the range between the extremes as a band.

    Args:
      axes: axes to draw on.
      x: (N,) numbers.
      by_seed: (N, seeds) numbers; None and values that are not finite are left out.
      label: label in the legend.
      index: index of color and marker.
      style: line style.
    """
    values = np.array(by_seed, np.float64)
    values[~np.isfinite(values)] = np.nan
    values = np.ma.masked_invalid(values)
    colour = COLOURS[index % len(COLOURS)]
    marker = MARKERS[index % len(MARKERS)] if len(x) <= 20 else None
    axes.plot(x, values.mean(1), style, color=colour, marker=marker, ms=4, label=label)
    low, high = values.min(1), values.max(1)
    axes.fill_between(x, low, high, color=colour, alpha=0.2, lw=0)


def dots(
    axes: Axes, x: Sequence[float], by_seed: Sequence, label: str, index: int
) -> None:
    """Draws the mean over seeds as a point, and the extremes as a bar around it.

    Args:
      axes: axes to draw on.
      x: (N,) positions.
      by_seed: (N, seeds) finite numbers.
      label: label in the legend.
      index: index of color and marker.
    """
    values = np.array(by_seed, np.float64)
    mean = values.mean(1)
    axes.errorbar(
        x,
        mean,
        yerr=[mean - values.min(1), values.max(1) - mean],
        fmt=MARKERS[index % len(MARKERS)],
        color=COLOURS[index % len(COLOURS)],
        ms=5,
        capsize=2,
        label=label,
    )


def legend(figure: Figure, *axes: Axes) -> None:
    """Draws a legend for the lines of `axes` below the figure.

    Lines with the same label in several axes look the same, and appear once.
    """
    named = {}
    for panel in axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    # The approximate number of letters that fit into a row.
    widest = max(len(label) for label in named)
    columns = max(1, min(len(named), 80 // (widest + 5)))
    figure.supxlabel("")  # would overlap the legend
    figure.legend(
        named.values(),
        named.keys(),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        title=_SPREAD,
        title_fontsize="small",
    )


def norm_label(norm: str) -> str:
    """Returns the label of a norm in a legend."""
    name = norm.replace("_", " ")
    if norm in ("ghost", "virtual", "adaptive"):
        return f"{name} batch norm"
    other = {"none": "no norm", "renorm": "batch renorm", "dynamic_tanh": name}
    return other.get(norm, f"{name} norm")


def per_cent(axes: Axes) -> None:
    """Labels the fractions of the y axis as percentages."""
    axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG with a palette, so that it is small."""
    from PIL import Image

    whole = path.with_suffix(".part.png")
    figure.savefig(whole, dpi=100)
    Image.open(whole).convert("RGB").quantize(256).save(whole, optimize=True)
    whole.replace(path)
