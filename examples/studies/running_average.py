"""Test accuracy over the first steps, with running statistics of several kinds."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import nets
import plots
from digits import Digits
from flax import linen as nn
from matplotlib.figure import Figure
from study import Finding, Study
from sweep import over_seeds
from training import Variables, measure, recalibrated, sgd, train_as

import jaxnorm

# Weights of the old average, or functions of the number of updates.
_MOMENTA = {
    "momentum 0.9": 0.9,
    "momentum 0.99": 0.99,
    "momentum 0.999": 0.999,
    "warm-up to 0.99": lambda count: jaxnorm.warmup_momentum(0.99)(count),
    "cumulative": lambda count: count / (count + 1.0),
    "precise": 0.9,
}


def build(config: ml_collections.ConfigDict, average: str) -> Callable:
    """Returns the training run for one kind of average."""
    options = nets.norm_options(config, momentum=_MOMENTA[average])
    net = nets.create(config, config.norm, options=options)

    def evaluate(
        net: nn.Module, variables: Variables, digits: Digits
    ) -> dict[str, jax.Array]:
        if average == "precise":
            images = digits.train.images[: config.recalibrated_with]
            variables = recalibrated(net, variables, images)
        results = measure(net, variables, digits.test)
        return {f"test_{name}": jnp.mean(x) for name, x in results.items()}

    def run(digits: Digits, seed: jax.Array) -> dict[str, jax.Array]:
        optimizer = sgd(config.learning_rate)
        return train_as(config, net, optimizer, digits, seed, evaluate).evaluations

    return run


def draw(config: ml_collections.ConfigDict, findings: list[Finding]) -> Figure:
    """Draws test accuracy over steps: constant momenta, and the other averages."""
    figure, [[constant, others]] = plots.new(
        "The same nets, tested with running statistics of several kinds",
        columns=2,
        height=4,
        sharey=True,
    )
    steps = range(config.eval_every, config.num_steps + 1, config.eval_every)
    for index, (point, result) in enumerate(findings):
        average = point["average"]
        by_step = list(zip(*result["test_accuracy"], strict=True))
        panels = [constant] if average.startswith("momentum") else [others]
        # Both panels show precise statistics for comparison.
        for axes in [constant, others] if average == "precise" else panels:
            plots.line(axes, steps, by_step, average, index)
    constant.set(title="averages of constant momentum", ylabel="test accuracy")
    others.set(title="other averages")
    for axes in (constant, others):
        axes.set(xlabel="steps of training")
    plots.per_cent(constant)
    plots.legend(figure, constant, others)
    return figure


STUDY = Study(
    question="Why does evaluation fail early in training, and what helps?",
    run=over_seeds(build, static=("average",)),
    draw=draw,
    choices={"average": _MOMENTA},
)
