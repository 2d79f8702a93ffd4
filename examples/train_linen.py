"""Trains a CNN with batch norm on one device: Flax Linen and `jax.jit`.

Copy this file, load your arrays in `load_data`, and run it.

  python train_linen.py
  python train_linen.py --epochs=20 --batch-size=256 --workdir=/tmp/my_run

A second run with the same --workdir continues from its last checkpoint.
It needs jaxnorm, and: pip install optax orbax-checkpoint tqdm scikit-learn
"""

import argparse
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import linen as nn
from flax.training import train_state
from tqdm import tqdm

import jaxnorm.linen

WIDTHS = (32, 64, 128)  # features of the convolutions


def load_data():
    """Returns (images, labels) for training and for testing; load your arrays here.

    Images: (N, height, width, channels), any dtype. Labels: (N,), integers from 0.
    """
    from sklearn import datasets

    digits = datasets.load_digits()  # 1,797 images of 8 x 8 pixels, unsorted
    images, labels = digits.images[..., np.newaxis], digits.target
    return (images[:1408], labels[:1408]), (images[1408:], labels[1408:])


class CNN(nn.Module):
    """Convolutions, each with batch norm, and a dense layer."""

    num_classes: int

    @nn.compact
    def __call__(self, images, train):
        """Returns logits."""
        x = images.astype(jnp.float32)
        for features in WIDTHS:
            # No bias, because the norm would subtract it again.
            x = nn.Conv(features, (3, 3), strides=2, use_bias=False)(x)
            # The warm-up makes running statistics accurate from the first step on.
            x = jaxnorm.linen.BatchNorm(
                use_running_average=not train, momentum=jaxnorm.warmup_momentum(0.99)
            )(x)
            x = nn.relu(x)
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


class TrainState(train_state.TrainState):
    """Parameters, optimizer state, and the running statistics of the norms."""

    batch_stats: dict


@jax.jit
def train_step(state, images, labels):
    """Returns the state after one batch, and the batch's loss."""

    def loss_fn(params):
        # The model takes running statistics and returns new ones.
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, updates = state.apply_fn(
            variables, images, train=True, mutable=["batch_stats"]
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updates["batch_stats"]

    (loss, batch_stats), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=grads, batch_stats=batch_stats), loss


@jax.jit
def count_correct(state, images, labels):
    """Returns the number of correctly classified images of a batch."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    logits = state.apply_fn(variables, images, train=False)
    return jnp.sum(logits.argmax(axis=-1) == labels)


def split(indices, batch_size):
    """Splits indices into batches of nearly equal size, so that no batch is tiny."""
    return np.array_split(indices, -(-len(indices) // batch_size))


def main(argv=None):
    """Trains, evaluates after each epoch, and saves checkpoints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=5, help="in all")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--workdir", type=Path, help="default: a new one")
    args = parser.parse_args(argv)
    if min(args.epochs, args.batch_size) < 1:
        parser.error("--epochs and --batch-size must be at least 1")
    workdir = args.workdir or Path(tempfile.mkdtemp(prefix="train_linen_"))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--workdir={workdir} must be a directory: {error.strerror}")
    print("checkpoints:", workdir)

    (images, labels), (test_images, test_labels) = load_data()
    if images.ndim != 4 or labels.ndim != 1:
        shapes = f"{images.shape} and {labels.shape}"
        parser.error(f"shapes must be as load_data says (images[..., None]?): {shapes}")
    model = CNN(num_classes=int(labels.max()) + 1)
    variables = model.init(jax.random.key(0), images[:1], train=False)
    state = TrainState.create(apply_fn=model.apply, tx=optax.adam(3e-3), **variables)
    state = jax.device_put(state, jax.devices()[0])

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
        for epoch in range(done + 1, args.epochs + 1):
            # The order depends only on the epoch, so that a restored run repeats it.
            order = np.random.default_rng(epoch).permutation(len(images))
            losses = []
            for rows in tqdm(split(order, args.batch_size), desc=f"epoch {epoch}"):
                state, loss = train_step(state, images[rows], labels[rows])
                losses.append(loss)
            correct = [
                count_correct(state, test_images[rows], test_labels[rows])
                for rows in split(np.arange(len(test_images)), args.batch_size)
            ]
            accuracy = np.sum(correct) / len(test_images)
            print(f"epoch {epoch}: loss {np.mean(losses):.4f}, accuracy {accuracy:.4f}")
            checkpoints.save(epoch, args=ocp.args.StandardSave(state))


if __name__ == "__main__":
    main()
