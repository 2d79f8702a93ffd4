"""The three parallelisms give the same results, and padding none."""

import itertools
from functools import partial

import data
import evaluation
import jax
import numpy as np
import optimizer
import pytest
import replica_stats
from model import create_model
from parallel import PARALLELISMS, padded_size
from step import eval_step, train_step
from support.tiers import matrix

NUM_DEVICES = 4
pytestmark = pytest.mark.usefixtures("narrow")


# Often padded, with a device that has no example.
@pytest.mark.parametrize(
    ("parallelism", "count"),
    matrix(itertools.product(PARALLELISMS, (16, 13, 3)), often=[("pmap", 3)]),
)
def test_a_step_equals_that_of_one_device_without_padding(
    run, assert_close, double_precision, parallelism, count
):
    options = double_precision
    expected = run("jit", range(count), size=count, num_devices=1, **options)
    gradients, statistics, sums = run(parallelism, range(count), size=16, **options)
    assert_close(gradients, expected[0])
    assert_close(sums, expected[2])
    assert sums.count == count
    assert replica_stats.spread(statistics) == 0
    for device in range(NUM_DEVICES):
        assert_close(
            jax.tree.map(lambda x, device=device: x[device], statistics),
            jax.tree.map(lambda x: x[0], expected[1]),
        )


# With the program of the step above.
def test_padding_may_hold_anything(run, assert_close, double_precision, monkeypatch):
    expected = run("pmap", range(13), size=16, **double_precision)
    take = data.take

    def take_with_noise(*arguments):
        batch = take(*arguments)
        noise = np.where(batch.mask, 0, 99).astype(np.uint8)
        images = batch.images + noise[..., None, None, None]
        return batch._replace(images=images, labels=batch.labels + noise)

    monkeypatch.setattr(data, "take", take_with_noise)
    actual = run("pmap", range(13), size=16, **double_precision)
    assert_close(actual, expected, tolerance=0)


# The types of such a step are tested in test_mnist_norms.py, the rest of it above.
@pytest.mark.full
@pytest.mark.parametrize("parallelism", ["pmap", "shard_map"])
def test_without_sync_each_device_has_the_statistics_of_its_examples(
    run, assert_close, parallelism
):
    options = {"bn_momentum": 0.0, "bn_momentum_warmup": False}
    _, statistics, _ = run(parallelism, range(16), size=16, sync=False, **options)
    assert replica_stats.spread(statistics) > 1e-3

    # Rows are dealt like cards, and nothing before the first layer's statistics depends
    # on other examples.
    first = statistics["BatchNorm_0"]
    for device in range(NUM_DEVICES):
        own = range(device, 16, NUM_DEVICES)
        _, alone, _ = run("jit", own, size=16, num_devices=1, **options)
        for name in ("mean", "var"):
            assert_close(first[name][device], alone["BatchNorm_0"][name][0])

    # Merged, they are those of all examples.
    _, together, _ = run("jit", range(16), size=16, num_devices=1, **options)
    merged = replica_stats.merge(statistics)
    assert_close(
        merged["BatchNorm_0"], jax.tree.map(lambda x: x[0], together["BatchNorm_0"])
    )


def test_merge_follows_the_law_of_total_variance(rng):
    statistics = {
        "layer": {
            "BatchNorm_0": {
                "mean": rng.normal(size=(5, 3)).astype(np.float32),
                "var": rng.uniform(size=(5, 3)).astype(np.float32),
                "count": np.full(5, 7, np.float32),
            }
        }
    }
    merged = replica_stats.merge(statistics)["layer"]["BatchNorm_0"]
    mean, var, _ = (
        value.astype(np.float64)
        for value in statistics["layer"]["BatchNorm_0"].values()
    )
    np.testing.assert_allclose(merged["mean"], mean.mean(0), rtol=1e-5)
    np.testing.assert_allclose(merged["var"], var.mean(0) + mean.var(0), rtol=1e-5)
    assert merged["count"] == 7


@pytest.mark.parametrize(
    ("statistics", "expected"),
    [
        ({"mean": [[1.0], [3.0]]}, {"mean": [2.0]}),
        # sqrt((3^2 + 5^2) / 2 + 4^2)
        (
            {"mean": [[0.0], [8.0]], "std": [[3.0], [5.0]]},
            {"mean": [4.0], "std": [33**0.5]},
        ),
        ({"Conv_0/kernel/u": [[1.0], [1.0]]}, {"Conv_0/kernel/u": [1.0]}),
        ({}, {}),
    ],
    ids=["mean-only", "batch renorm", "spectral", "none"],
)
def test_merge_of_other_statistics(assert_close, statistics, expected):
    arrays = {name: np.array(value, np.float32) for name, value in statistics.items()}
    assert_close(replica_stats.merge({"layer": arrays}), {"layer": expected})


def test_spread_is_the_largest_difference():
    statistics = {
        "a": {"mean": np.array([[1.0, 2.0], [1.5, 2.0]])},
        "b": {"mean": np.array([[0.0, -2.0], [0.0, 1.0]])},
    }
    assert replica_stats.spread(statistics) == 3.0
    assert replica_stats.spread({}) == 0.0


def test_no_statistics_of_its_own_under_jit(run):
    with pytest.raises(ValueError, match="whole batch"):
        run("jit", range(4), size=4, sync=False)


@pytest.mark.parametrize(
    ("batch_size", "num_devices", "size"), [(128, 4, 128), (10, 4, 12), (1, 8, 8)]
)
def test_a_batch_that_does_not_divide_is_padded(batch_size, num_devices, size):
    assert padded_size(batch_size, num_devices) == size


@pytest.mark.parametrize("parallelism", matrix(PARALLELISMS, often=["shard_map"]))
def test_evaluation_counts_every_example_once(get_config, parallelism, rng):
    num_examples = 1_003
    split = data.Split(
        rng.integers(0, 256, (num_examples, 28, 28, 1), np.uint8),
        rng.integers(0, 10, num_examples, np.int32),
    )
    model = create_model(get_config(), axis_name=None)
    init = jax.jit(partial(model.init, train=False))
    variables = jax.device_get(init(jax.random.key(0), split.images[:1]))
    parallel = PARALLELISMS[parallelism](
        jax.devices("cpu")[:NUM_DEVICES],
        partial(train_step, seed=0),
        partial(eval_step, apply_fn=model.apply),
        True,
    )
    loss, accuracy = evaluation.evaluate(parallel, variables, split, size=128)

    logits = jax.jit(partial(model.apply, train=False))(variables, split.images)
    logits = np.asarray(logits, np.float64)
    normalizer = np.log(np.exp(logits).sum(axis=-1))
    own = logits[np.arange(num_examples), split.labels]
    np.testing.assert_allclose(loss, np.mean(normalizer - own), rtol=1e-5)
    assert accuracy == np.mean(logits.argmax(axis=-1) == split.labels)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_weight_decay_is_of_kernels_only(get_config, decay):
    config = get_config(weight_decay=decay)
    params = {
        "Conv_0": {"kernel": np.ones(3), "bias": np.ones(3)},
        "BatchNorm_0": {"scale": np.ones(3), "bias": np.ones(3)},
    }
    transformation = optimizer.create_optimizer(config, num_steps=10)
    gradients = jax.tree.map(np.zeros_like, params)
    with jax.numpy_dtype_promotion("standard"):  # which optax needs
        updates, _ = transformation.update(
            gradients, transformation.init(params), params
        )
    kernel = updates["Conv_0"].pop("kernel")
    np.testing.assert_allclose(kernel, -decay * config.learning_rate)
    for leaf in jax.tree.leaves(updates):
        np.testing.assert_array_equal(leaf, 0)
