"""A norm before the activation, after it, or no norm, over learning rates."""

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

_LABELS = {
    "before_activation": "norm, relu",
    "after_activation": "relu, norm",
    "none": "no norm",
}


def build(config: ml_collections.ConfigDict, placement: str) -> Callable:
    """Returns the run for one placement, as a function of the learning rate."""
    norm = config.norm if placement != "none" else "none"
    net = nets.create(config, norm, placement=placement)

    def run(
        digits: Digits, seed: jax.Array, learning_rate: jax.Array
    ) -> dict[str, jax.Array]:
        return train_as(config, net, sgd(learning_rate), digits, seed).last

    return run


def draw(config: ml_collections.ConfigDict, findings: list[Finding]) -> Figure:
    """Draws test accuracy over learning rates, a line for each placement."""
    figure, [[axes]] = plots.new(
        f"Where the norm stands ({config.norm} norm, {config.num_steps} steps of "
        f"{config.batch_size} digits)"
    )
    for index, placement in enumerate(config.sweep.placement):
        some = [f for f in findings if f.point["placement"] == placement]
        plots.line(
            axes,
            [f.point["learning_rate"] for f in some],
            [f.result["test_accuracy"] for f in some],
            _LABELS[placement],
            index,
        )
    axes.set(xscale="log", xlabel="learning rate", ylabel="test accuracy")
    plots.per_cent(axes)
    plots.legend(figure, axes)
    return figure


STUDY = Study(
    question="Is a norm better before or after the activation?",
    run=over_seeds(build, static=("placement",)),
    draw=draw,
    choices={"placement": _LABELS},
)
