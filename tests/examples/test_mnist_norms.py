"""Every normalizer of the example trains, on any devices, and learns the digits."""

import json
from functools import partial

import data
import jax
import numpy as np
import optax
import pytest
import replica_stats
import train
from model import create_model
from norms import NORMS
from optimizer import create_optimizer
from parallel import PARALLELISMS, statistics_axis
from step import collect_reference, eval_step, train_step
from support.tiers import matrix

NUM_DEVICES = 4


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Compiling is most of the time that these tests take."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# test_mnist_parallel.py pads batch norm; the masks of the others are tested with the
# functions.
@pytest.mark.full
@pytest.mark.parametrize("norm", NORMS)
def test_it_trains_and_padding_may_hold_anything(build, digits, norm):
    options = {"learning_rate": 0.02, "virtual_batch_size": 4}
    parallel, state = build("jit", num_devices=1, norm=norm, **options)
    take = partial(data.take, digits, np.arange(13))

    def take_with_noise(rows):
        batch = take(rows)
        noise = np.where(batch.mask, 0, 99).astype(np.uint8)
        return batch._replace(images=batch.images + noise[:, None, None, None])

    def losses(take):
        placed, current = parallel.place_batch(take, 16), parallel.place_state(state)
        for _ in range(4):
            current, sums = parallel.train_step(current, placed)
            yield float(sums.loss)

    history = list(losses(take))
    assert history[-1] < history[0]
    assert list(losses(take_with_noise)) == history


_GHOSTS_OF_TWO_DEVICES = {"norm": "ghost", "virtual_batch_size": 16}


# The functions are tested in all modes, and that the example connects them in
# test_mnist_parallel.py and test_mnist_nnx.py, with batch norm.
@pytest.mark.full
@pytest.mark.parametrize(
    ("parallelism", "options"),
    [
        ("pmap", _GHOSTS_OF_TWO_DEVICES),
        ("jit", _GHOSTS_OF_TWO_DEVICES),
        ("shard_map", _GHOSTS_OF_TWO_DEVICES),
        ("shard_map", {"norm": "renorm"}),
        ("pmap", {"norm": "virtual"}),
        ("pmap", {"norm": "renorm"}),
        ("jit", {"norm": "renorm"}),
        ("jit", {"norm": "virtual"}),
        ("shard_map", {"norm": "virtual"}),
        ("pmap", {"norm": "ghost", "virtual_batch_size": 8}),
        ("shard_map", {"norm": "spectral"}),
    ],
    ids=lambda x: x if isinstance(x, str) else "-".join(map(str, x.values())),
)
def test_a_step_equals_that_of_one_device(
    run, assert_close, double_precision, parallelism, options
):
    options = options | double_precision
    # As cards are dealt to devices, so that one device has the same ghosts.
    dealt = [i for device in range(NUM_DEVICES) for i in range(device, 32, NUM_DEVICES)]
    expected = run("jit", dealt, size=32, num_devices=1, **options)
    actual = run(parallelism, range(32), size=32, num_devices=NUM_DEVICES, **options)
    assert_close(actual[0], expected[0])
    assert_close(actual[2], expected[2])
    assert replica_stats.spread(actual[1]) == 0
    one, other = (
        jax.tree.map(lambda x: x[0], result[1]) for result in (actual, expected)
    )
    assert_close(one, other)


# Often with a reference batch, and with the state of each device.
@pytest.mark.parametrize(
    ("norm", "sync"),
    matrix(
        [
            *((norm, True) for norm in NORMS),
            *((norm, False) for norm in ("batch", "spectral", "renorm", "mean_only")),
        ],
        often=[("virtual", True), ("batch", False)],
    ),
)
def test_types_under_shard_map(get_config, digits, norm, sync):
    # There types tell what is equal on all devices, and a step keeps them, or fails.
    config = get_config(norm=norm, virtual_batch_size=8)
    model = create_model(config, statistics_axis("shard_map", sync))
    images = digits.images[:8] if norm == "virtual" else None
    parallel = PARALLELISMS["shard_map"](
        jax.devices("cpu")[:NUM_DEVICES],
        partial(train_step, seed=0, reference=images),
        partial(eval_step, apply_fn=model.apply),
        sync,
    )
    state = jax.eval_shape(
        partial(train.create_state, model, optax.sgd(1.0), 0), digits.images[:1]
    )
    if not sync:
        stacked = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((NUM_DEVICES, *x.shape), x.dtype),
            state.batch_stats,
        )
        state = state.replace(batch_stats=stacked)
    batch = data.take(digits, np.arange(64), np.arange(64))
    after, _ = jax.eval_shape(parallel.train_step, state, batch)
    shapes = partial(jax.tree.map, lambda x: (x.shape, x.dtype))
    assert shapes(after) == shapes(state)


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["renorm", "spectral"])
def test_without_sync_statistics_can_be_merged(run, build, norm):
    options = {"sync": False, "norm": norm}
    _, statistics, _ = run("shard_map", range(16), size=16, **options)
    assert (replica_stats.spread(statistics) > 0) == (norm == "renorm")
    _, start = build("shard_map", **options)
    shapes = partial(jax.tree.map, np.shape)
    one = jax.tree.map(lambda x: x[0], start.batch_stats)
    assert shapes(replica_stats.merge(statistics)) == shapes(one)


@pytest.mark.slow
def test_virtual_batch_norm_needs_no_batch(build, digits, get_config):
    # Evaluated with the current weights' reference, alone or with others.
    config = get_config(norm="virtual")
    model = create_model(config, axis_name=None)
    _, state = build("jit", num_devices=1, norm="virtual")
    images = data.reference_images(digits, size=8, seed=0)
    collect = partial(collect_reference, apply_fn=model.apply)
    variables = {"params": state.params} | collect(state.params, images)
    together = model.apply(variables, digits.images[:4], train=False)
    alone = model.apply(variables, digits.images[:1], train=False)
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4, atol=1e-5)

    doubled = jax.tree.map(lambda x: 2 * x, state.params)
    before, after = variables["reference"], collect(doubled, images)["reference"]
    layer = "VirtualBatchNorm_0"
    np.testing.assert_allclose(after[layer]["mean"], 2 * before[layer]["mean"])


def test_reference_images_are_a_function_of_the_seed(digits):
    first = data.reference_images(digits, size=8, seed=0)
    np.testing.assert_array_equal(first, data.reference_images(digits, 8, seed=0))
    assert not np.array_equal(first, data.reference_images(digits, 8, seed=1))
    assert len({image.tobytes() for image in first}) == 8


def test_gates_stay_between_0_and_1(get_config):
    config = get_config(norm="batch_instance", learning_rate=0.1)
    optimizer = create_optimizer(config, num_steps=1)
    params = {"gate": np.array([0.0, 1.0, 0.5], np.float32)}
    gradients = {"gate": np.array([1.0, -1.0, -1.0], np.float32)}
    with jax.numpy_dtype_promotion("standard"):  # which optax needs
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["gate"], [0, 0, 0.1], atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_for_speed")
@pytest.mark.parametrize("norm", NORMS)
def test_it_learns_the_digits(start, tmp_path, norm):
    process = start(
        f"--config.norm={norm}",
        "--config.parallelism=jit",
        "--cpu_devices=1",
        f"--workdir={tmp_path}",
    )
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 5
    assert json.loads(lines[-1])["test_accuracy"] >= 0.94
