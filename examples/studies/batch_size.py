"""Small batches, with norms that need large batches and norms that do not."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import nets
import plots
from digits import Digits
from flax import linen as nn
from matplotlib.figure import Figure
from study import Finding, Study, StudyError
from sweep import over_seeds
from training import Variables, measure, recalibrated, sgd, train

_STATISTICS = {
    "running": "running statistics",
    "batch": "those of test batches",
    "recalibrated": "recalibrated ones",
}
_PER_EXAMPLE = ("group", "layer", "instance", "rms")


def build(config: ml_collections.ConfigDict, batch_size: int, norm: str) -> Callable:
    """Returns the training run for one batch size and one norm."""
    num_steps = max(1, config.num_examples // batch_size)
    ghost_size = min(batch_size, config.ghost_size)
    for size in (batch_size, config.recalibrated_with):
        if size % ghost_size:
            raise StudyError(
                "config.ghost_size must divide config.recalibrated_with and the batch "
                f"sizes that are larger; it is {ghost_size}, and one is {size}"
            )
    options = nets.norm_options(
        config, virtual_batch_size=ghost_size, num_steps=num_steps
    )
    net = nets.create(config, norm, options=options)

    def evaluate(
        net: nn.Module, variables: Variables, digits: Digits
    ) -> dict[str, jax.Array]:
        results = {"running": measure(net, variables, digits.test)}
        if variables.get("batch_stats"):
            # In testing, ghosts would be the same as these batches.
            results["batch"] = measure(
                net, variables, digits.test, batch_size=batch_size, train=True
            )
            images = digits.train.images[: config.recalibrated_with]
            new = recalibrated(net, variables, images)
            results["recalibrated"] = measure(net, new, digits.test)
        return {name: jnp.mean(x["accuracy"]) for name, x in results.items()}

    def run(digits: Digits, seed: jax.Array) -> dict[str, jax.Array]:
        return train(
            net,
            sgd(config.learning_rate * batch_size / 128),
            digits,
            seed,
            num_steps=num_steps,
            batch_size=batch_size,
            evaluate=evaluate,
            reference_size=config.reference_size if norm == "virtual" else 0,
        ).last

    return run


def draw(config: ml_collections.ConfigDict, findings: list[Finding]) -> Figure:
    """Draws test accuracy over sizes: by norm, and batch norm's by statistics."""
    figure, [[batch, example, kinds]] = plots.new(
        "What small batches do, by norm and by the statistics of the test",
        columns=3,
        height=4.8,
        sharey=True,
    )
    sizes = config.sweep.batch_size

    def values(norm: str, kind: str) -> list:
        found = {
            f.point["batch_size"]: f.result for f in findings if f.point["norm"] == norm
        }
        return [found[size][kind] for size in sizes]

    for index, norm in enumerate(config.sweep.norm):
        # batch norm is the one to compare with in all panels
        panels = [example] if norm in _PER_EXAMPLE else [batch]
        for axes in [batch, example] if norm == "batch" else panels:
            plots.line(
                axes, sizes, values(norm, "running"), plots.norm_label(norm), index
            )
    if "batch" in config.sweep.norm:
        for place, (kind, label) in enumerate(_STATISTICS.items()):
            plots.line(kinds, sizes, values("batch", kind), label, place)
    batch.set(title="norms across the batch", ylabel="test accuracy")
    example.set(title="norms per example")
    kinds.set(title="batch norm, tested with")
    for axes in (batch, example, kinds):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="examples in a batch", ylim=(0, 1))
        axes.set_xticks(sizes, [str(size) for size in sizes])
        if axes.lines:
            axes.legend(fontsize="small", loc="lower left")
    plots.per_cent(batch)
    return figure


STUDY = Study(
    question="How do small batches hurt, and what helps?",
    run=over_seeds(build, static=("batch_size", "norm"), compile_quickly=True),
    draw=draw,
)
