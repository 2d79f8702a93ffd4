"""Micro-batches with the statistics of the full batch."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx
from support.refusals import refused
from support.small_net import NET, make_images, make_variables
from support.tiers import matrix

from jaxnorm.tools import apply_batch_moments, full_batch_value_and_grad

images = pytest.fixture(make_images)
variables = pytest.fixture(make_variables)


@pytest.fixture
def labels(rng):
    return jax.device_put(rng.integers(0, 2, size=24).astype(np.int32))


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).sum()


def split(number, *arrays):
    def split_one(x):
        return jax.device_put(np.asarray(x).reshape(number, -1, *x.shape[1:]))

    return jax.tree.map(split_one, arrays)


def loss(params, batch_stats, batch):
    images, labels = batch
    logits, updates = NET.apply(
        {"params": params, "batch_stats": batch_stats},
        images,
        train=False,
        mutable=["batch_moments"],
    )
    with jax.numpy_dtype_promotion("standard"):
        return cross_entropy(logits, labels) / 24, updates["batch_moments"]


@jax.jit
@functools.partial(jax.value_and_grad, has_aux=True)
def full(params, batch_stats, images, labels):
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updates = NET.apply(variables, images, train=True, mutable=["batch_stats"])
    with jax.numpy_dtype_promotion("standard"):
        return cross_entropy(logits, labels) / 24, updates["batch_stats"]


@functools.cache
def accumulating(depth):
    return jax.jit(full_batch_value_and_grad(loss, depth=depth))


# Many micro-batches stand for few.
@pytest.mark.parametrize("number", matrix((1, 2, 6), often=[6]))
def test_equal_to_the_full_batch(variables, images, labels, number):
    (expected, stats), gradients = full(
        variables["params"], variables["batch_stats"], images, labels
    )
    value, actual, moments = accumulating(3)(
        variables["params"], variables["batch_stats"], split(number, images, labels)
    )
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(gradients))
    chex.assert_trees_all_close(actual, gradients, rtol=1e-4, atol=1e-5 * scale)
    moved = apply_batch_moments(variables["batch_stats"], moments)
    chex.assert_trees_all_close(moved, stats, rtol=1e-5, atol=1e-6)


def gradients(depth, variables, *batch):
    step = accumulating(depth)
    return step(variables["params"], variables["batch_stats"], split(6, *batch))[1]


@pytest.mark.full
def test_fewer_passes_than_layers_are_not_enough(variables, images, labels):
    exact, early = (gradients(n, variables, images, labels) for n in (3, 1))
    close = functools.partial(np.allclose, rtol=1e-2, atol=1e-4)
    assert not all(jax.tree.leaves(jax.tree.map(close, early, exact)))


@pytest.mark.full  # five passes, in which three are computed as in the tests above
def test_more_passes_than_layers_change_nothing(variables, images, labels):
    exact, more = (gradients(n, variables, images, labels) for n in (3, 5))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(exact))
    chex.assert_trees_all_close(more, exact, rtol=1e-4, atol=1e-5 * scale)


def test_one_update_from_collected_moments(variables, images):
    # Without gradients through the statistics: k micro-batches, one moving average.
    moments = {}
    apply = jax.jit(NET.apply, static_argnames=("train", "mutable"))
    for part in np.split(np.asarray(images), 3):
        _, new = apply(
            {**variables, **moments}, part, train=True, mutable=("batch_moments",)
        )
        moments = new
    first = apply_batch_moments(
        variables["batch_stats"], moments["batch_moments"], momentum=0.9
    )["BatchNorm_0"]
    mean = np.asarray(images, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(first["mean"], 0.1 * mean, rtol=1e-5)


def returned(change):
    """A loss that returns something else."""

    def wrong(params, batch_stats, batch):
        return change(*loss(params, batch_stats, batch))

    return wrong


def in_training_mode(params, batch_stats, batch):
    variables = {"params": params, "batch_stats": batch_stats}
    logits, updates = NET.apply(variables, batch[0], True, mutable=["batch_moments"])
    return jnp.sum(logits), updates["batch_moments"]


class FlaxNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x)


def of_flax(params, batch_stats, batch):
    variables = {"params": params, "batch_stats": batch_stats}
    y, updates = FlaxNet().apply(variables, batch[0], mutable=["batch_moments"])
    return jnp.sum(y), updates["batch_moments"]


WRONG_LOSSES = {
    "the loss alone": (returned(lambda loss, moments: loss), ("a pair",)),
    "the other way round": (
        returned(lambda *both: both[::-1]),
        ("second", "batch_moments"),
    ),
    "a loss each": (returned(lambda loss, m: (loss[None], m)), ("scalar", "(1,)")),
    "of Flax's norms": (of_flax, ("jaxnorm.linen.BatchNorm", "mutable=")),
}


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("what", WRONG_LOSSES)
def test_a_loss_that_returns_something_else(what, variables, images, labels):
    wrong, says = WRONG_LOSSES[what]
    if wrong is of_flax:
        variables = jax.jit(FlaxNet().init)(jax.random.key(0), images)
    step = full_batch_value_and_grad(wrong, depth=1)
    with refused("loss" if wrong is not of_flax else "of_flax", *says):
        jax.eval_shape(
            step,
            variables["params"],
            variables["batch_stats"],
            split(2, images, labels),
        )


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("model", [NET, type(NET), nnx.BatchNorm(2, rngs=nnx.Rngs(0))])
def test_a_model_in_place_of_the_loss(model):
    with refused("loss", "parameters, statistics and one micro-batch"):
        full_batch_value_and_grad(model, depth=1)


@pytest.mark.usefixtures("as_users_run_it")
def test_micro_batches_that_have_no_axis_in_common(variables, images, labels):
    step = full_batch_value_and_grad(loss, depth=1)
    for batches in (
        (split(2, images)[0], split(3, labels)[0]),
        (images[:0], labels[:0]),
        (split(2, images)[0], jnp.ones(())),
        (),
    ):
        with refused("batches", "leading axis", "reshape"):
            step(variables["params"], variables["batch_stats"], batches)


def test_bad_depth():
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        full_batch_value_and_grad(loss, depth=0)
    for depth in (1.0, None, "1"):
        with refused("depth", "integer", repr(depth)):
            full_batch_value_and_grad(loss, depth=depth)
