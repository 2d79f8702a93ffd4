"""Trains a CNN with batch norm on several devices: Flax Linen and `jax.pmap`.

JAX keeps pmap in maintenance mode, for existing programs. For a new program, start from
`train_shard_map.py`.

The devices share statistics of the whole batch, by `axis_name` in the norms, and the
loss, by `lax.psum`. A CPU can simulate several devices:

  XLA_FLAGS=--xla_force_host_platform_device_count=4 python train_pmap.py

Copy this file, load your arrays in `load_data`, and run it. A second run with the same
--workdir continues from its last checkpoint, on any number of devices.
It needs jaxnorm, and: pip install optax orbax-checkpoint tqdm scikit-learn
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import jax_utils
from flax import linen as nn
from flax.training import train_state
from jax import lax
from tqdm import tqdm

import jaxnorm.linen

WIDTHS = (32, 64, 128)  # features of the convolutions
DEVICES = jax.local_device_count()


def load_data():
    """Returns (images, labels) for training and for testing; load your arrays here.

    Images: (N, height, width, channels), any dtype. Labels: (N,), integers from 0.
    """
    from sklearn import datasets

    digits = datasets.load_digits()  # 1,797 images of 8 x 8 pixels, unsorted
    images, labels = digits.images[..., np.newaxis], digits.target
    return (images[:1400], labels[:1400]), (images[1400:], labels[1400:])


class CNN(nn.Module):
    """Convolutions, each with batch norm, and a dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, images, mask, train):
        """Returns logits."""
        # The warm-up makes running statistics accurate from the first step on.
        x, momentum = images.astype(jnp.float32), jaxnorm.warmup_momentum(0.99)
        for features in WIDTHS:
            # No bias, because the norm would subtract it again.
            x = nn.Conv(features, (3, 3), strides=2, use_bias=False)(x)
            x = jaxnorm.linen.BatchNorm(
                use_running_average=not train, momentum=momentum, axis_name="data"
            )(x, mask=mask[:, None, None, None])
            x = nn.relu(x)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


class TrainState(train_state.TrainState):
    """Parameters, optimizer state, and the running statistics of the norms."""

    batch_stats: dict


@partial(jax.pmap, axis_name="data")
def train_step(state, batch):
    """Returns the state after one batch, and the batch's loss."""
    images, labels, mask = batch  # of this device

    def loss_fn(params):
        # The model takes running statistics and returns new ones.
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = state.apply_fn(
            variables, images, mask, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        # This device's part of the mean over all devices, whose counts may differ. A
        # sum here would multiply the gradients by the number of devices.
        count = lax.psum(mask.sum(), "data")
        return jnp.sum(losses, where=mask) / count, updates["batch_stats"]

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    loss, grads = lax.psum((loss, grads), "data")
    return state.apply_gradients(grads=grads, batch_stats=batch_stats), loss


@partial(jax.pmap, axis_name="data")
def count_correct(state, batch):
    """Returns the number of correctly classified images of a batch."""
    images, labels, mask = batch
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = state.apply_fn(variables, images, mask, train=False)
    return lax.psum(jnp.sum(mask & (logits.argmax(axis=-1) == labels)), "data")


def batches(data, order, batch_size, name):
    """Yields padded batches of equal size; the mask is False for the padding."""
    images, labels = data
    for start in tqdm(range(0, len(order), batch_size), desc=name):
        mask = np.arange(start, start + batch_size) < len(order)
        rows = np.resize(order[start : start + batch_size], batch_size)
        # A leading axis of devices, which pmap splits.
        rows = rows.reshape(DEVICES, -1)
        yield images[rows], labels[rows], mask.reshape(rows.shape)


def main(argv=None):
    """Trains, evaluates after each epoch, and saves checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5, help="in all")
    parser.add_argument("--batch-size", type=int, default=128, help="of all devices")
    parser.add_argument("--workdir", type=Path, help="default: a new one")
    args = parser.parse_args(argv)
    if min(args.epochs, args.batch_size) < 1:
        parser.error("--epochs and --batch-size must be at least 1")
    batch_size = -(-args.batch_size // DEVICES) * DEVICES
    workdir = args.workdir or Path(tempfile.mkdtemp(prefix="train_pmap_"))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--workdir={workdir} must be a directory: {error.strerror}")
    print(f"{DEVICES} devices; checkpoints: {workdir}")

    train, test = load_data()
    images, labels = train
    if images.ndim != 4 or labels.ndim != 1:
        shapes = f"{images.shape} and {labels.shape}"
        parser.error(f"shapes must be as load_data says (images[..., None]?): {shapes}")
    model = CNN(num_classes=int(labels.max()) + 1)
    variables = model.init(
        jax.random.key(0), images[:1], jnp.ones(1, bool), train=False
    )
    state = TrainState.create(apply_fn=model.apply, tx=optax.adam(3e-3), **variables)

    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(workdir.absolute(), options=options) as checkpoints:
        done = checkpoints.latest_step() or 0
        if done:
            try:
                state = checkpoints.restore(done, args=ocp.args.StandardRestore(state))
            except ValueError:
                fix = "delete it, or change --workdir"
                parser.error(f"{workdir} has checkpoints of another model: {fix}")
            print("restored: epoch", done)
        state = jax_utils.replicate(state)  # one copy for each device
        for epoch in range(done + 1, args.epochs + 1):
            # The order depends only on the epoch, so that a restored run repeats it.
            order = np.random.default_rng(epoch).permutation(len(images))
            losses = []
            for batch in batches(train, order, batch_size, f"epoch {epoch}"):
                state, loss = train_step(state, batch)
                losses.append(loss[0])  # the same on all devices
            tests = batches(test, np.arange(len(test[1])), batch_size, "test")
            correct = [count_correct(state, batch)[0] for batch in tests]
            accuracy = np.sum(correct) / len(test[1])
            print(f"epoch {epoch}: loss {np.mean(losses):.4f}, accuracy {accuracy:.4f}")
            first = jax_utils.unreplicate(state)
            checkpoints.save(epoch, args=ocp.args.StandardSave(first))


if __name__ == "__main__":
    main()
