"""LSTMs and transformers with norms that read digits row by row."""

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

# The line style shows which statistics the test uses.
_STYLES = {"running": "-", "recalibrated": "--"}


def build(config: ml_collections.ConfigDict, model: str) -> Callable:
    """Returns the run for one model, as a function of the learning rate."""
    net = sequence_models.create(config, model)
    # A model whose running statistics are those of the last batch. It replaces
    # `training.recalibrated`, whose moments `nn.RNN` carries only if they exist before.
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
    models = [tuple(model.split(", ")) for model in config.sweep.model]
    kinds = list(dict.fromkeys(kind for kind, _ in models))
    norms = list(dict.fromkeys(norm for _, norm in models))
    figure, [axes] = plots.new(
        "Norms in nets that read digits row by row",
        columns=len(kinds),
        height=4.4,
        sharey=True,
    )
    panels = dict(zip(kinds, axes, strict=True))
    for kind, norm in models:
        some = [f for f in findings if f.point["model"] == f"{kind}, {norm}"]
        for statistics, style in _STYLES.items():
            if statistics in some[0].result:
                plots.line(
                    panels[kind],
                    [f.point["learning_rate"] for f in some],
                    [f.result[statistics] for f in some],
                    plots.norm_label(norm) if style == "-" else None,
                    norms.index(norm),
                    style=style,
                )
    for kind, own in panels.items():
        own.set(xscale="log", title=kind, xlabel="learning rate of Adam")
    axes[0].set(ylabel="test accuracy")
    axes[0].plot([], [], "--", color="0.3", label="dashed: recalibrated")
    plots.per_cent(axes[0])
    plots.legend(figure, *axes)
    return figure


STUDY = Study(
    question="Which norms suit networks that read digits row by row?",
    run=over_seeds(build, static=("model",)),
    draw=draw,
    choices={"model": sequence_models.MODELS},
)
