"""Digits read row by row, by LSTMs and by transformers, with norms of both."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import optax
import plots
import sequence_models
from digits import Digits
from flax import linen as nn
from matplotlib.figure import Figure
from study import Finding, Study
from sweep import over_seeds
from training import Variables, measure, train_as

# Lines of the legend.
_STATISTICS = {"running": "{norm}", "recalibrated": "{norm}, recalibrated"}


def build(config: ml_collections.ConfigDict, model: str) -> Callable:
    """Returns a run of one model as a function of the learning rate."""
    net = sequence_models.create(config, model)
    # Whose running statistics are those of the last batch; `training.recalibrated`
    # collects moments, which `nn.RNN` carries only where they are there before.
    config = config.copy_and_resolve_references()
    config.bn_momentum = 0.0
    forgetful = sequence_models.create(config, model)

    def evaluate(
        net: nn.Module, variables: Variables, digits: Digits
    ) -> dict[str, jax.Array]:
        results = {"running": measure(net, variables, digits.test)}
        if variables["batch_stats"]:
            images = digits.train.images[: config.recalibrated_with]
            _, exact = forgetful.apply(
                variables, images, train=True, mutable=["batch_stats"]
            )
            results["recalibrated"] = measure(net, variables | exact, digits.test)
        return {name: jnp.mean(x["accuracy"]) for name, x in results.items()}

    def run(
        digits: Digits, seed: jax.Array, learning_rate: jax.Array
    ) -> dict[str, jax.Array]:
        optimizer = optax.chain(
            optax.clip_by_global_norm(config.max_gradient_norm),
            optax.adam(learning_rate),
        )
        return train_as(config, net, optimizer, digits, seed, evaluate).last

    return run


def draw(config: ml_collections.ConfigDict, findings: list[Finding]) -> Figure:
    """Draws test accuracy over learning rates, for either kind of net."""
    kinds = {model.split(", ")[0]: None for model in config.sweep.model}
    figure, [axes] = plots.new(
        "Digits read row by row: what norms do for recurrent nets and transformers",
        columns=len(kinds),
        height=3.8,
        sharey=True,
    )
    for kind, own in zip(kinds, axes, strict=True):
        models = [m for m in config.sweep.model if m.split(", ")[0] == kind]
        for model in models:
            some = [f for f in findings if f.point["model"] == model]
            for statistics, label in _STATISTICS.items():
                if statistics in some[0].result:
                    plots.line(
                        own,
                        [f.point["learning_rate"] for f in some],
                        [f.result[statistics] for f in some],
                        label.format(norm=plots.norm_label(model.split(", ")[1])),
                        len(own.lines),
                    )
        own.set(xscale="log", title=kind, xlabel="learning rate of Adam")
        own.legend(fontsize="small")
    axes[0].set(ylabel="test accuracy")
    plots.per_cent(axes[0])
    return figure


STUDY = Study(
    question="Which norms suit nets that read digits row by row?",
    run=over_seeds(build, static=("model",)),
    draw=draw,
    choices={"model": sequence_models.MODELS},
)
