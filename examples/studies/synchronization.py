"""Devices that share statistics with all others, in pairs, or not at all."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections
import nets
import plots
from digits import Digits
from matplotlib.figure import Figure
from study import Finding, Point, Study, StudyError
from sweep import over_seeds
from training import Variables, accuracies, sgd, train

from jaxnorm import tools

# Mapped axes over which statistics are shared; devices are arranged in pairs.
_AXES = {"all": ("pair", "member"), "pairs": ("member",), "none": None}
_LABELS = {"all": "all devices", "pairs": "pairs of devices", "none": "none"}


class Replicas(NamedTuple):
    """A network on devices that each have a part of the batch and separate statistics.

    Mapped axes of one program simulate the devices, so that any machine can run a
    study, with all seeds at once. Collectives over these axes work as over devices.

    Attributes:
      net: network that shares statistics over the axes "pair", "member", both or none.
      devices: an even number.
    """

    net: nets.Net
    devices: int

    def init(self, key: jax.Array, images: jax.Array, *, train: bool) -> Variables:
        """Returns variables; running statistics have two leading axes of devices."""
        variables = self.net.init(key, images, train=train)
        shape = self.devices // 2, 2
        stats = jax.tree.map(
            lambda x: jnp.broadcast_to(x, (*shape, *x.shape)), variables["batch_stats"]
        )
        return {**variables, "batch_stats": stats}

    def apply(
        self, variables: Variables, images: jax.Array, **options: Any
    ) -> tuple[jax.Array, Variables]:
        """Returns the logits in training mode, and the updates on all devices."""

        def on_device(stats: Variables, images: jax.Array) -> tuple:
            return self.net.apply(
                {**variables, "batch_stats": stats}, images, **options
            )

        parts = images.reshape((self.devices // 2, 2, -1, *images.shape[1:]))
        on_pair = jax.vmap(on_device, axis_name="member")
        logits, updates = jax.vmap(on_pair, axis_name="pair")(
            variables["batch_stats"], parts
        )
        return logits.reshape((len(images), -1)), updates


def batch_size(config: ml_collections.ConfigDict, point: Point) -> int:
    """Returns the number of examples per step, over all devices."""
    return point["per_device"] * config.devices


def build(
    config: ml_collections.ConfigDict, per_device: int, shared_by: str
) -> Callable:
    """Returns the run for a number of examples per device and a kind of sharing."""
    if config.devices < 2 or config.devices % 2:
        raise StudyError(f"config.devices must be even; it is {config.devices}")
    options = nets.norm_options(config, axis_name=_AXES[shared_by])
    net = nets.create(config, "batch", options=options)
    size = per_device * config.devices

    def evaluate(
        replicas: Replicas, variables: Variables, digits: Digits
    ) -> dict[str, jax.Array]:
        stats = jax.tree.map(
            lambda x: x.reshape((config.devices, *x.shape[2:])),
            variables["batch_stats"],
        )
        merged = tools.merge_batch_stats(
            [jax.tree.map(lambda x, i=i: x[i], stats) for i in range(config.devices)]
        )
        # Standard deviations over devices, divided by those of the features.
        drifts = [
            jnp.std(stats[layer]["mean"], 0) / jnp.sqrt(merged[layer]["var"])
            for layer in sorted(stats)
        ]
        found = accuracies(replicas.net, {**variables, "batch_stats": merged}, digits)
        return {
            "test_accuracy": found["test_accuracy"],
            "drift": jnp.mean(jnp.concatenate(drifts)),
        }

    def run(digits: Digits, seed: jax.Array) -> dict[str, jax.Array]:
        return train(
            Replicas(net, config.devices),
            sgd(config.learning_rate * size / 128),
            digits,
            seed,
            num_steps=max(1, config.num_examples // size),
            batch_size=size,
            evaluate=evaluate,
        ).last

    return run


def draw(config: ml_collections.ConfigDict, findings: list[Finding]) -> Figure:
    """Draws test accuracy and drift over the examples per device."""
    figure, [[accuracy, drift]] = plots.new(
        f"Training on {config.devices} devices, by who shares a batch's statistics",
        columns=2,
    )
    sizes = config.sweep.per_device
    for index, shared_by in enumerate(config.sweep.shared_by):
        found = [f.result for f in findings if f.point["shared_by"] == shared_by]
        for axes, name in ((accuracy, "test_accuracy"), (drift, "drift")):
            values = [result[name] for result in found]
            plots.line(axes, sizes, values, _LABELS[shared_by], index)
    accuracy.set(ylabel="test accuracy, statistics merged")
    drift.set(ylabel="running means, std over devices\n/ std of the feature")
    plots.per_cent(accuracy)
    for axes in (accuracy, drift):
        axes.set_xscale("log", base=2)
        axes.set(xlabel="examples on a device")
        axes.set_xticks(sizes, [str(size) for size in sizes])
    plots.legend(figure, accuracy)
    return figure


STUDY = Study(
    question="What changes when devices synchronize their statistics?",
    run=over_seeds(
        build,
        static=("per_device", "shared_by"),
        batch_size=batch_size,
        compile_quickly=True,
    ),
    draw=draw,
    choices={"shared_by": _AXES},
)
