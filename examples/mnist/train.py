"""Trains and evaluates the MNIST model."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import checkpoint
import data
import drift
import interrupt
import jax
import ml_collections
import numpy as np
import optax
from flax import traverse_util
from flax.linen import Module
from model import create_model
from parallel import PARALLELISMS, Parallel, padded_size, statistics_axis
from report import Metrics, Report
from step import Sums, TrainState, collect_reference, eval_step, train_step
from tqdm import tqdm

import jaxnorm


def create_optimizer(
    config: ml_collections.ConfigDict, num_steps: int
) -> optax.GradientTransformation:
    """Returns Adam; with decoupled decay of kernels where `config.weight_decay` > 0.

    The gates of batch-instance norm are projected to [0, 1] after each step.
    """
    learning_rate = config.learning_rate
    if config.schedule == "cosine":
        learning_rate = optax.cosine_decay_schedule(learning_rate, num_steps)

    def kernels(params):
        # Scales and biases are few, and zero is no natural value for a scale.
        return traverse_util.path_aware_map(
            lambda path, _: path[-1] == "kernel", params
        )

    optimizer = optax.adam(learning_rate)
    if config.weight_decay:
        optimizer = optax.adamw(
            learning_rate, weight_decay=config.weight_decay, mask=kernels
        )
    if config.norm == "batch_instance":
        optimizer = optax.chain(optimizer, jaxnorm.gate_projection())
    return optimizer


def create_state(
    model: Module, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """Returns the state before the first step."""
    images = np.zeros((1, 28, 28, 1), np.uint8)
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(seed), images)
    return TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optimizer,
        batch_stats=variables.get("batch_stats", {}),
    )


def train_and_evaluate(config: ml_collections.ConfigDict, workdir: Path) -> Report:
    """Trains as `config` says, evaluates after every epoch, and saves the variables.

    Args:
      config: a valid configuration (see `settings.py`).
      workdir: where results go; made if need be.

    Returns:
      The report, with the metrics of all epochs.
    """
    devices = jax.local_devices()
    train, test = data.load(config)
    workdir.mkdir(parents=True, exist_ok=True)
    simulated = " (simulated)" if devices[0].platform == "cpu" else ""
    print(
        f"workdir: {workdir}\n"
        f"devices: {len(devices)} x {devices[0].device_kind}{simulated}\n"
        f"data: {config.dataset}, {len(train.labels):,} training and "
        f"{len(test.labels):,} test images\n"
        f"parallelism: {config.parallelism}, batch {config.batch_size} over "
        f"{len(devices)} devices, statistics "
        f"{'synchronized' if config.sync else 'of each device its own'}",
        flush=True,
    )

    order = data.training_order(len(train.labels), config.batch_size, config.seed)
    steps_per_epoch = -(-len(train.labels) // config.batch_size)
    size = padded_size(config.batch_size, len(devices))

    num_steps = config.num_epochs * steps_per_epoch
    model = create_model(
        config, statistics_axis(config.parallelism, config.sync), num_steps
    )
    optimizer = create_optimizer(config, num_steps)
    reference = None
    if config.norm == "virtual":
        reference = data.reference_images(train, config.reference_size, config.seed)
    collect = jax.jit(
        partial(collect_reference, images=reference, apply_fn=model.apply)
    )
    parallel = PARALLELISMS[config.parallelism](
        devices,
        partial(
            train_step,
            seed=config.seed,
            max_shift=config.max_shift,
            reference=reference,
        ),
        partial(eval_step, apply_fn=model.apply),
        config.sync,
    )
    state = parallel.place_state(create_state(model, optimizer, config.seed))

    def training_batch(step: int) -> data.Batch:
        return parallel.place_batch(data.take(train, order[step], size))

    # Compiled ahead, so that images per second are those of training alone.
    compiled_step = parallel.train_step.lower(state, training_batch(0)).compile()

    with Report(workdir) as report, tqdm(total=steps_per_epoch, leave=False) as bar:
        for epoch in range(config.num_epochs):
            steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
            bar.reset()
            bar.set_description(f"epoch {epoch + 1}")
            start = time.perf_counter()
            state, sums = run_epoch(
                compiled_step, state, map(training_batch, steps), bar
            )
            jax.block_until_ready(state)
            seconds = time.perf_counter() - start

            statistics = parallel.fetch_statistics(state)
            variables = host_variables(parallel, state, statistics, config.sync)
            variables |= jax.device_get(collect(variables["params"]))
            train_loss, train_accuracy = means(parallel.fetch(sums))
            test_loss, test_accuracy = evaluate(parallel, variables, test, size)
            report.add(
                Metrics(
                    epoch=epoch + 1,
                    train_loss=train_loss,
                    train_accuracy=train_accuracy,
                    test_loss=test_loss,
                    test_accuracy=test_accuracy,
                    images_per_second=len(train.labels) / seconds,
                    stats_spread=drift.spread(statistics),
                )
            )
            bar.clear()
            print(report.epochs[-1], flush=True)
        report.draw_curves()
    checkpoint.save(workdir / "checkpoint", variables)
    return report


def run_epoch(
    step: Callable, state: TrainState, batches: Iterable[data.Batch], bar: tqdm
) -> tuple[TrainState, list[Sums]]:
    """Takes one step on each batch; returns the last state and the sums of all."""
    history: list[Sums] = []
    for batch in batches:
        interrupt.check()
        state, sums = step(state, batch)
        # At most two steps are under way: the next batch is made while a step runs,
        # yet the progress bar does not run ahead of the devices.
        jax.block_until_ready(history[-1:])
        history.append(sums)
        bar.update()
    return state, history


def evaluate(
    parallel: Parallel, variables: Any, split: data.Split, size: int
) -> tuple[float, float]:
    """Returns mean loss and accuracy over all examples of `split`, each counted once.

    Args:
      parallel: how to run.
      variables: collections of the model, on the host.
      split: the examples.
      size: rows in a batch, a multiple of the number of devices.
    """
    placed = parallel.place_variables(variables)
    history = []
    for start in range(0, len(split.labels), size):
        indices = np.arange(start, min(start + size, len(split.labels)))
        batch = parallel.place_batch(data.take(split, indices, size))
        history.append(parallel.eval_step(placed, batch))
        jax.block_until_ready(history[-2:-1])
    return means(parallel.fetch(history))


def means(history: list[Sums]) -> tuple[float, float]:
    """Returns mean loss and accuracy over all examples of some steps."""
    loss, correct, count = np.sum(np.asarray(history, np.float64), axis=0)
    return float(loss / count), float(correct / count)


def host_variables(
    parallel: Parallel, state: TrainState, statistics: Any, sync: bool
) -> dict[str, Any]:
    """Returns the variables for evaluation and checkpoints, with one set of statistics.

    Args:
      parallel: where `state` lies.
      state: the training state on the devices.
      statistics: its `batch_stats` with a leading axis of devices.
      sync: whether the devices hold the same statistics; otherwise they are merged.
    """
    if sync:
        batch_stats = jax.tree.map(lambda x: x[0], statistics)
    else:
        batch_stats = drift.merge(statistics)
    return {"params": parallel.fetch(state.params), "batch_stats": batch_stats}
