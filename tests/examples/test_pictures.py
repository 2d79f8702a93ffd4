"""What pictures of the examples say without the text around them."""

import numpy as np
import plots
import pytest
import report
import study


def texts(figure):
    legends = [*figure.legends, *filter(None, (a.get_legend() for a in figure.axes))]
    parts = [text.get_text() for legend in legends for text in legend.get_texts()]
    parts += [legend.get_title().get_text() for legend in legends]
    return [*parts, figure.get_supxlabel()]


def check_titles(figure):
    """The title is larger than those of panels, and within the picture."""
    figure.canvas.draw()
    title = figure._suptitle
    assert title.get_text()
    assert title.get_fontsize() > max(a.title.get_fontsize() for a in figure.axes)
    extent = title.get_window_extent()
    assert extent.x0 >= 0 and extent.x1 <= figure.bbox.x1


@pytest.mark.parametrize("with_legend", [False, True])
def test_style_of_the_studies(with_legend):
    longest = "Digits read row by row: what norms do for recurrent nets and more " * 2
    figure, [[axes]] = plots.new(longest)
    plots.line(axes, [1, 2], [[1, 2], [3, 4]], "label", 0)
    axes.set_title("a panel")
    if with_legend:
        plots.legend(figure, axes)
    check_titles(figure)
    assert sum("bands" in text for text in texts(figure)) == 1


def results(name, config, point, rng):
    """Results of a study's point that nobody has run."""
    if name == "batch_size":
        kinds = ("running", "batch", "recalibrated")
        return {kind: rng.random(3).tolist() for kind in kinds}
    if name == "mean_scale":
        return {"error": rng.random(3).tolist(), "milliseconds": 0.3}
    if name == "sequence":
        kinds = ("running", "recalibrated")[: 1 + point["model"].endswith("batch")]
        return {kind: rng.random(3).tolist() for kind in kinds}
    steps, depth = config.num_steps // config.eval_every, len(config.widths)
    if name == "running_average":
        return {"test_accuracy": rng.random((3, steps)).tolist()}
    return {
        "percentiles": rng.normal(size=(3, steps, depth, 3)).tolist(),
        "gradient_norm": rng.random((3, steps, depth)).tolist(),
    }


@pytest.mark.parametrize(
    "name", ["activations", "batch_size", "mean_scale", "running_average", "sequence"]
)
def test_every_line_has_its_name(get_config, rng, name):
    config, found = get_config(f"study_{name}"), study.load(name)
    figure = found.draw(
        config,
        [
            study.Finding(point, results(name, config, point, rng))
            for point in found.points(config)
        ],
    )
    check_titles(figure)
    told = texts(figure)
    for axes in figure.axes:
        named = {}
        for line in axes.lines:
            label = line.get_label()
            if axes.get_legend_handles_labels()[1] and not label.startswith("_"):
                named[line.get_color()] = label
        colors = {line.get_color() for line in axes.lines if len(line.get_xdata()) > 2}
        assert colors <= named.keys() and set(named.values()) <= set(told)
        assert len(named) <= 5


@pytest.mark.parametrize("num_epochs", [1, 2, 5])
def test_curves(num_epochs):
    epochs = [
        report.Metrics(n, 1 / n, 1 - 0.5 / n, 2 / n, 1 - 0.6 / n, 100, 0, 0)
        for n in range(1, num_epochs + 1)
    ]
    figure = report.draw_curves(epochs)
    check_titles(figure)
    assert f"epoch {num_epochs}" in figure.get_suptitle()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        np.testing.assert_array_equal(ticks, np.arange(1, num_epochs + 1))
