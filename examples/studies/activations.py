"""Inputs and gradients of the layers of a network over training."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import nets
import numpy as np
import optax
import plots
from digits import Digits
from flax import linen as nn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from study import Finding, Study
from sweep import over_seeds
from training import Variables, sgd, train_as

# The percentiles of Ioffe and Szegedy (2015), figure 1.
_PERCENTILES = (15, 50, 85)


def build(config: ml_collections.ConfigDict, norm: str) -> Callable:
    """Returns the training run for one norm."""
    net = nets.create(config, norm)

    def evaluate(
        net: nn.Module, variables: Variables, digits: Digits
    ) -> dict[str, jax.Array]:
        batch = jax.tree.map(lambda x: x[: config.seen], digits.train)

        def loss(params):
            logits, seen = net.apply(
                {**variables, "params": params},
                batch.images,
                train=True,
                mutable=["batch_stats", "intermediates"],
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits, batch.labels
            )
            return jnp.mean(losses), seen["intermediates"]["activation_inputs"]

        gradients, inputs = jax.grad(loss, has_aux=True)(variables["params"])
        kernels = [gradients[f"Dense_{i}"]["kernel"] for i in range(len(inputs))]
        percentiles = jnp.array(_PERCENTILES, jnp.float32)
        return {
            "percentiles": jnp.stack([jnp.percentile(x, percentiles) for x in inputs]),
            "gradient_norm": jnp.stack([jnp.linalg.norm(x) for x in kernels]),
        }

    def run(digits: Digits, seed: jax.Array) -> dict[str, jax.Array]:
        optimizer = sgd(config.learning_rate)
        return train_as(config, net, optimizer, digits, seed, evaluate).evaluations

    return run


def draw(config: ml_collections.ConfigDict, findings: list[Finding]) -> Figure:
    """Draws inputs of three layers over steps, and gradients over layers."""
    figure, axes = plots.new(
        "Inputs of relus, and gradients, in the layers of a deep net",
        rows=2,
        columns=3,
        height=6.4,
        sharey="row",
    )
    steps = np.arange(config.eval_every, config.num_steps + 1, config.eval_every)
    depth = len(config.widths)
    layers = 0, depth // 2, depth - 1
    moments = 0, len(steps) // 2, len(steps) - 1
    for index, (point, result) in enumerate(findings):
        label = plots.norm_label(point["norm"])
        # (seeds, steps, layers, percentiles) and (seeds, steps, layers).
        percentiles = np.array(result["percentiles"], np.float64)
        gradients = np.array(result["gradient_norm"], np.float64)
        for column, layer in enumerate(layers):
            for place, name in enumerate(_PERCENTILES):
                plots.line(
                    axes[0, column],
                    steps,
                    percentiles[:, :, layer, place].T,
                    label if name == 50 else None,
                    index,
                    style="-" if name == 50 else ":",
                )
        for column, moment in enumerate(moments):
            by_layer = gradients[:, moment].T
            plots.line(axes[1, column], range(1, depth + 1), by_layer, label, index)
    _label(axes, layers, steps[list(moments)])
    plots.legend(figure, axes[0, 0])
    return figure


def _label(axes: np.ndarray, layers: tuple[int, ...], steps: np.ndarray) -> None:
    for column, (layer, step) in enumerate(zip(layers, steps, strict=True)):
        above: Axes = axes[0, column]
        above.set(title=f"layer {layer + 1}", xlabel="steps of training")
        below: Axes = axes[1, column]
        below.set(title=f"step {step}", xlabel="layer", yscale="log")
    low, _, high = _PERCENTILES
    axes[0, 0].set(
        ylabel=f"input of the relu: median,\ndotted: percentiles {low} and {high}"
    )
    axes[1, 0].set(ylabel="norm of the gradient\nof a layer's weights")


STUDY = Study(
    question="How do inputs of layers change in training, and gradients with depth?",
    run=over_seeds(build, static=("norm",)),
    draw=draw,
    choices={"norm": ("none", "batch", "layer", "group", "instance", "rms", "renorm")},
)
