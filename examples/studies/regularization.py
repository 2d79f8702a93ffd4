"""Norms, dropout and weight decay with few training digits."""

from collections.abc import Callable

import jax
import ml_collections
import nets
import numpy as np
import plots
from digits import Digits
from matplotlib.figure import Figure
from study import Finding, Study
from sweep import over_seeds
from training import sgd, train_as


def build(config: ml_collections.ConfigDict, norm: str) -> Callable:
    """Returns the run for one norm, as a function of dropout and decay."""
    net = nets.create(config, norm)

    def run(
        digits: Digits,
        seed: jax.Array,
        dropout_rate: jax.Array,
        weight_decay: jax.Array,
    ) -> dict[str, jax.Array]:
        dropping = net.clone(dropout_rate=dropout_rate)
        optimizer = sgd(config.learning_rate, weight_decay)
        return train_as(config, dropping, optimizer, digits, seed).last

    return run


def draw(config: ml_collections.ConfigDict, findings: list[Finding]) -> Figure:
    """Draws test accuracy and gap over decays: columns are norms."""
    norms, decays = config.sweep.norm, config.sweep.weight_decay
    figure, axes = plots.new(
        f"What dropout and weight decay add to a norm ({config.num_train} digits)",
        rows=2,
        columns=len(norms),
        height=5.2,
        sharex=True,
        sharey="row",
    )
    for column, norm in enumerate(norms):
        for index, rate in enumerate(config.sweep.dropout_rate):
            where = {"norm": norm, "dropout_rate": rate}
            some = [f.result for f in findings if where.items() <= f.point.items()]
            test = np.array([result["test_accuracy"] for result in some])
            training = np.array([result["train_accuracy"] for result in some])
            # On a categorical axis, because there are few decays, and 0 is one of them.
            x = np.arange(len(decays)) + 0.06 * index
            plots.line(axes[0, column], x, test, f"dropout {rate:g}", index)
            plots.line(axes[1, column], x, training - test, f"dropout {rate:g}", index)
        axes[0, column].set(title=plots.norm_label(norm))
        axes[1, column].set(xlabel="weight decay")
        axes[1, column].set_xticks(range(len(decays)), [f"{x:g}" for x in decays])
    axes[0, 0].set(ylabel="test accuracy")
    axes[1, 0].set(ylabel="train - test accuracy")
    for row in axes:
        plots.per_cent(row[0])
    plots.legend(figure, axes[0, 0])
    return figure


STUDY = Study(
    question="How do norms combine with dropout and weight decay?",
    run=over_seeds(build, static=("norm",)),
    draw=draw,
)
