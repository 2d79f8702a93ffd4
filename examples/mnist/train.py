"""Sets up and starts a training run of the MNIST model."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import data
import jax
import ml_collections
import numpy as np
import optax
import processes
from model import CNN, create_model
from model_nnx import Functional
from optimizer import create_optimizer
from parallel import PARALLELISMS, padded_size, stack, statistics_axis
from run import Run
from run_state import RunState
from step import TrainState, collect_reference, eval_step, train_step


def create_state(
    model: CNN | Functional,
    optimizer: optax.GradientTransformation,
    seed: int,
    images: np.ndarray,
) -> TrainState:
    """Returns the state before the first step.

    Args:
      model: the network.
      optimizer: the optimizer of its parameters.
      seed: seed for the parameters.
      images: sample images, of which only the shape matters.
    """
    variables = jax.jit(partial(model.init, train=False))(jax.random.key(seed), images)
    state = TrainState.create(
        apply_fn=model.apply,
        params=variables["params"],
        tx=optimizer,
        batch_stats=variables.get("batch_stats", {}),
    )
    return state.replace(step=np.int32(0))


def train_and_evaluate(
    config: ml_collections.ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device] | None = None,
    run_state: Callable[..., RunState] = RunState,
) -> None:
    """Trains as `config` says, and evaluates after every epoch.

    A run that ended in any way continues from its last checkpoint in `workdir`.

    Args:
      config: a valid configuration (see `settings.py`).
      workdir: directory for results; created if necessary.
      devices: devices to run on, of all processes; None means all devices.
      run_state: creates the state of the run, from the arguments of `RunState`.

    Raises:
      signals.Terminated: after a SIGTERM; a checkpoint is saved.
      run.BadBatchesError: too many consecutive batches were bad.
      checkpoint.WriteError: a checkpoint could not be saved.
    """
    devices = devices or jax.devices()
    train, test = data.load(config)
    num_steps = config.num_epochs * -(-len(train.labels) // config.batch_size)
    axis_name = statistics_axis(config.parallelism, config.sync)
    model = create_model(config, axis_name, num_steps)
    optimizer = create_optimizer(config, num_steps)
    state = jax.device_get(
        create_state(model, optimizer, config.seed, train.images[:1])
    )
    if not config.sync:
        state = state.replace(batch_stats=stack(state.batch_stats, len(devices)))
    reference = None
    if config.norm == "virtual":
        reference = data.reference_images(train, config.reference_size, config.seed)
    collect = partial(collect_reference, images=reference, apply_fn=model.apply)
    parallel = PARALLELISMS[config.parallelism](
        devices,
        partial(
            train_step,
            seed=config.seed,
            max_shift=config.max_shift,
            skip_nonfinite=config.skip_nonfinite,
            reference=reference,
        ),
        partial(eval_step, apply_fn=model.apply),
        config.sync,
    )
    size = padded_size(config.batch_size, len(devices))
    with run_state(workdir, config, state) as opened:
        if processes.is_first():
            print(describe(config, workdir, devices, train, test), flush=True)
        Run(config, parallel, opened, train, test, size, jax.jit(collect)).go()


def describe(
    config: ml_collections.ConfigDict,
    workdir: Path,
    devices: Sequence[jax.Device],
    train: data.Split,
    test: data.Split,
) -> str:
    """Returns a description of data, model settings and devices, in a few lines."""
    simulated = " (simulated)" if devices[0].platform == "cpu" else ""
    several = f" of {jax.process_count()} processes" * (jax.process_count() > 1)
    kind = "synchronized" if config.sync else "separate on each device"
    return (
        f"workdir: {workdir}\n"
        f"devices: {len(devices)} x {devices[0].device_kind}{simulated}{several}\n"
        f"data: {config.dataset}, {len(train.labels):,} training and "
        f"{len(test.labels):,} test images\n"
        f"parallelism: {config.parallelism}, batch {config.batch_size} over "
        f"{len(devices)} devices, statistics {kind}"
    )
