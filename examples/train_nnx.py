"""Trains a CNN with batch norm on one device: Flax NNX and `nnx.jit`.

Copy this file, load your arrays in `load_data`, and run it.

  python train_nnx.py
  python train_nnx.py --epochs=20 --batch-size=256 --workdir=/tmp/my_run

A second run with the same --workdir continues from its last checkpoint.
It needs jaxnorm, and: pip install optax orbax-checkpoint tqdm scikit-learn
"""

import argparse
import tempfile
from itertools import pairwise
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from tqdm import tqdm

import jaxnorm.nnx

WIDTHS = (32, 64, 128)  # features of the convolutions


def load_data():
    """Returns (images, labels) for training and for testing; load your arrays here.

    Images: (N, height, width, channels), any dtype. Labels: (N,), integers from 0.
    """
    from sklearn import datasets

    digits = datasets.load_digits()  # 1,797 images of 8 x 8 pixels, unsorted
    images, labels = digits.images[..., np.newaxis], digits.target
    return (images[:1408], labels[:1408]), (images[1408:], labels[1408:])


class CNN(nnx.Module):
    """Convolutions, each with batch norm, and a dense layer."""

    def __init__(self, channels, num_classes, *, rngs):
        widths = (channels, *WIDTHS)
        # No bias, because the norm would subtract it again.
        options = {"strides": 2, "use_bias": False, "rngs": rngs}
        self.convs = nnx.List(
            nnx.Conv(before, after, (3, 3), **options)
            for before, after in pairwise(widths)
        )
        # The warm-up makes running statistics accurate from the first step on.
        self.norms = nnx.List(
            jaxnorm.nnx.BatchNorm(
                width, momentum=jaxnorm.warmup_momentum(0.99), rngs=rngs
            )
            for width in widths[1:]
        )
        self.dense = nnx.Linear(widths[-1], num_classes, rngs=rngs)

    def __call__(self, images):
        """Returns logits."""
        x = images.astype(jnp.float32)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return self.dense(x.mean(axis=(1, 2)))


@nnx.jit
def train_step(model, optimizer, images, labels):
    """Updates model and optimizer in place with one batch; returns its loss."""

    def loss_fn(model):
        # The norms write new running statistics into their nnx.BatchStat variables.
        # Gradients and the optimizer use only nnx.Param variables.
        logits = model(images)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean()

    loss, grads = nnx.value_and_grad(loss_fn)(model)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def count_correct(model, images, labels):
    """Returns the number of correctly classified images of a batch."""
    return jnp.sum(model(images).argmax(axis=-1) == labels)


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
    workdir = args.workdir or Path(tempfile.mkdtemp(prefix="train_nnx_"))
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--workdir={workdir} must be a directory: {error.strerror}")
    print("checkpoints:", workdir)

    (images, labels), (test_images, test_labels) = load_data()
    if images.ndim != 4 or labels.ndim != 1:
        shapes = f"{images.shape} and {labels.shape}"
        parser.error(f"shapes must be as load_data says (images[..., None]?): {shapes}")
    model = CNN(images.shape[-1], int(labels.max()) + 1, rngs=nnx.Rngs(0))
    transform = optax.adam(3e-3)
    # To fine-tune with frozen batch norms, both parameters and statistics:
    # transform = jaxnorm.nnx.freeze_batch_norms(model, transform)
    optimizer = nnx.Optimizer(model, transform, wrt=nnx.Param)

    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager(workdir.absolute(), options=options) as checkpoints:
        done = checkpoints.latest_step() or 0
        if done:
            state = nnx.state((model, optimizer))
            try:
                state = checkpoints.restore(done, args=ocp.args.StandardRestore(state))
            except ValueError:
                fix = "delete it, or change --workdir"
                parser.error(f"{workdir} has checkpoints of another model: {fix}")
            nnx.update((model, optimizer), state)
            print("restored: epoch", done)
        for epoch in range(done + 1, args.epochs + 1):
            # The order depends only on the epoch, so that a restored run repeats it.
            order = np.random.default_rng(epoch).permutation(len(images))
            model.train()  # the norms use the statistics of each batch
            losses = [
                train_step(model, optimizer, images[rows], labels[rows])
                for rows in tqdm(split(order, args.batch_size), desc=f"epoch {epoch}")
            ]
            model.eval()  # the norms use their running statistics
            correct = [
                count_correct(model, test_images[rows], test_labels[rows])
                for rows in split(np.arange(len(test_images)), args.batch_size)
            ]
            accuracy = np.sum(correct) / len(test_images)
            print(f"epoch {epoch}: loss {np.mean(losses):.4f}, accuracy {accuracy:.4f}")
            state = nnx.state((model, optimizer))
            checkpoints.save(epoch, args=ocp.args.StandardSave(state))


if __name__ == "__main__":
    main()
