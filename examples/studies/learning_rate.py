"""Learning rates and scales of the initialization in deep plain networks."""

from collections.abc import Callable

import jax
import ml_collections
import nets
import plots
from digits import Digits
from matplotlib.figure import Figure
from study import Finding, Study
from sweep import over_seeds
from training import sgd, train_as


def build(config: ml_collections.ConfigDict, net: str, norm: str) -> Callable:
    """Returns the run of a network with a norm, as a function of rate and scale."""
    attributes = {}
    if net == "mlp":
        attributes = {"dense": True, "widths": tuple(config.dense_widths)}
    model = nets.create(config, norm, **attributes)

    def run(
        digits: Digits,
        seed: jax.Array,
        learning_rate: jax.Array,
        init_scale: jax.Array,
    ) -> dict[str, jax.Array]:
        scaled = model.clone(init_scale=init_scale)
        return train_as(config, scaled, sgd(learning_rate), digits, seed).last

    return run


def draw(config: ml_collections.ConfigDict, findings: list[Finding]) -> Figure:
    """Draws test accuracy over learning rates: rows are nets, columns scales."""
    rows, columns = config.sweep.net, config.sweep.init_scale
    figure, axes = plots.new(
        "Learning rates and initial weights with which deep nets learn",
        rows=len(rows),
        columns=len(columns),
        height=1 + 2.2 * len(rows),
        sharex=True,
        sharey=True,
    )
    for row, net in enumerate(rows):
        for column, scale in enumerate(columns):
            for index, norm in enumerate(config.sweep.norm):
                where = {"net": net, "norm": norm, "init_scale": scale}
                some = [f for f in findings if where.items() <= f.point.items()]
                plots.line(
                    axes[row, column],
                    [f.point["learning_rate"] for f in some],
                    [f.result["test_accuracy"] for f in some],
                    plots.norm_label(norm),
                    index,
                )
            axes[row, column].set(xscale="log", title=f"{net}, weights x {scale:g}")
            plots.per_cent(axes[row, column])
        axes[row, 0].set(ylabel="test accuracy")
    for column in axes[-1]:
        column.set(xlabel="learning rate")
    plots.legend(figure, axes[0, 0])
    return figure


STUDY = Study(
    question="Do norms allow larger steps, and forgive a bad initialization?",
    run=over_seeds(build, static=("net", "norm")),
    draw=draw,
    choices={"net": ("cnn", "mlp")},
)
