"""Networks trained on clean digits and tested on digits that look different."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import nets
import numpy as np
import plots
from digits import Digits, Examples
from flax import linen as nn
from jax import lax
from matplotlib.figure import Figure
from study import Finding, Study
from sweep import over_seeds
from training import Variables, measure, recalibrated, sgd, train_as

# Functions of pixels in [0, 1].
_LOOKS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "clean": lambda x: x,
    "contrast x 0.3": lambda x: 0.3 * x,
    "brightness + 0.4": lambda x: x + 0.4,
    "noise, std 0.3": lambda x: x + 0.3 * jax.random.normal(jax.random.key(0), x.shape),
    "inverted": lambda x: 1 - x,
}


def build(config: ml_collections.ConfigDict, norm: str) -> Callable:
    """Returns the training run for one norm."""
    net = nets.create(config, norm)

    def evaluate(
        net: nn.Module, variables: Variables, digits: Digits
    ) -> dict[str, jax.Array]:
        few = config.adapted_with

        def test(images: jax.Array) -> dict[str, jax.Array]:
            tested = {"as trained": variables}
            if norm == "batch":
                adapt = functools.partial(recalibrated, net, variables)
                tested["few"] = adapt(images[:few])
                tested["few and prior"] = adapt(images[:few], prior_examples=few)
                tested["all"] = adapt(images)
            # One loop over all statistics and looks, so that the network is compiled
            # only once.
            stacked = jax.tree.map(lambda *x: jnp.stack(x), *tested.values())
            examples = Examples(images, digits.test.labels)
            accuracies = lax.map(
                lambda variables: measure(net, variables, examples)["accuracy"].mean(),
                stacked,
            )
            return dict(zip(tested, accuracies, strict=True))

        looks = jnp.stack([change(digits.test.images) for change in _LOOKS.values()])
        by_look = lax.map(test, looks)
        return {
            f"{look}, {name}": values[index]
            for name, values in by_look.items()
            for index, look in enumerate(_LOOKS)
        }

    def run(digits: Digits, seed: jax.Array) -> dict[str, jax.Array]:
        optimizer = sgd(config.learning_rate)
        return train_as(config, net, optimizer, digits, seed, evaluate).last

    return run


def draw(config: ml_collections.ConfigDict, findings: list[Finding]) -> Figure:
    """Draws test accuracy by look, of all norms, and of adapted batch norm."""
    figure, [[norms], [adapted]] = plots.new(
        "Trained on clean digits, tested with others",
        rows=2,
        height=6,
        sharex=True,
        sharey=True,
    )
    above = [
        (plots.norm_label(point["norm"]), result, "as trained")
        for point, result in findings
    ]
    below = [
        (label, result, name)
        for point, result in findings
        if point["norm"] == "batch"
        for name, label in (
            ("as trained", "as trained"),
            ("few", f"statistics of {config.adapted_with} test images"),
            ("few and prior", f"the same, old ones count as {config.adapted_with}"),
            ("all", "statistics of all test images"),
        )
    ]
    for axes, lines in ((norms, above), (adapted, below)):
        for index, (label, result, name) in enumerate(lines):
            values = np.array([result[f"{look}, {name}"] for look in _LOOKS])
            x = np.arange(len(_LOOKS)) + 0.12 * (index - 1.5)
            plots.dots(axes, x, values, label, index)
        axes.set(ylabel="test accuracy", ylim=(0, 1.1))
        axes.legend(fontsize="small", loc="upper right")
    plots.per_cent(norms)
    norms.set(title="each norm, with statistics of clean digits")
    adapted.set(title="batch norm, with statistics of the images of the test")
    adapted.set_xticks(range(len(_LOOKS)), list(_LOOKS))
    return figure


STUDY = Study(
    question="Which norms tolerate test images that look different?",
    run=over_seeds(build, static=("norm",), compile_quickly=True),
    draw=draw,
)
