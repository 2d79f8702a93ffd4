"""Makes the files of the examples importable as they import each other."""

import os
import runpy
import subprocess
import sys
from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from support.paths import ROOT


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def mnist_dir():
    """Where TFDS has the whole of MNIST."""
    directory = Path(os.environ.get("TFDS_DATA_DIR", ""))
    if not (directory / "mnist").is_dir():
        pytest.skip("no MNIST in TFDS_DATA_DIR")
    return directory


@pytest.fixture(scope="session")
def get_config():
    """Loads a file of configs/ by its name, with some options changed."""

    def get(name="default", **changes):
        config = runpy.run_path(str(ROOT / "configs" / f"{name}.py"))["get_config"]()
        with config.unlocked():
            config.update(changes)
        return config

    return get


@pytest.fixture
def start(tmp_path):
    """Starts main.py in an empty directory."""

    def start(*arguments):
        search = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        return subprocess.Popen(
            [sys.executable, str(ROOT / "examples" / "mnist" / "main.py"), *arguments],
            cwd=tmp_path,
            env=os.environ
            | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(search)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.fixture(scope="session")
def digits(get_config):
    import data

    return data.load(get_config(num_train=64))[0]


@pytest.fixture(scope="module")
def build(get_config, digits):
    """Returns a `Parallel` and a state on the host, before the first step."""
    import data
    import train
    from model import create_model
    from parallel import PARALLELISMS, stack, statistics_axis
    from step import eval_step, train_step

    @cache
    def build(parallelism, num_devices=4, sync=True, learning_rate=1.0, **options):
        config = get_config(**options)
        axis_name = statistics_axis(parallelism, sync)
        model = create_model(config, axis_name, num_steps=1)
        reference = None
        if config.norm == "virtual":
            reference = data.reference_images(digits, size=8, seed=0)
        parallel = PARALLELISMS[parallelism](
            jax.devices("cpu")[:num_devices],
            partial(train_step, seed=0, reference=reference),
            partial(eval_step, apply_fn=model.apply),
            sync,
        )
        # With a learning rate of 1, parameters change by minus the gradient.
        optimizer = optax.sgd(learning_rate)
        state = jax.device_get(
            train.create_state(model, optimizer, 0, digits.images[:1])
        )
        # After the first update, until which batch renorm is batch norm.
        statistics = jax.tree_util.tree_map_with_path(
            lambda path, x: np.float32(1) + x if path[-1].key == "count" else x,
            state.batch_stats,
        )
        if not sync:
            statistics = stack(statistics, num_devices)
        return parallel, state.replace(batch_stats=statistics)

    return build


@pytest.fixture(scope="module")
def run(build, digits):
    """Takes a step; returns what it changes, on the host."""
    import data

    def run(parallelism, indices, size, **options):
        parallel, start = build(parallelism, **options)
        take = partial(data.take, digits, np.asarray(indices))
        state, sums = parallel.train_step(
            parallel.place_state(start), parallel.place_batch(take, size)
        )
        gradients = jax.tree.map(
            np.subtract, start.params, parallel.fetch(state.params)
        )
        return gradients, parallel.fetch_statistics(state), parallel.fetch(sums)

    return run


@pytest.fixture
def standard_promotion():
    """Which optax needs."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def compiled_for_speed(monkeypatch):
    """Processes that run for long are compiled as for users."""
    monkeypatch.setenv("XLA_FLAGS", "")


@pytest.fixture(scope="module")
def compiled_once(tmp_path_factory):
    """Runs share what they compile, those in processes of their own, too."""
    cache = str(tmp_path_factory.mktemp("compiled"))
    options = {
        "jax_compilation_cache_dir": cache,
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in options.items():
            environment.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield
        for name, value in before.items():
            jax.config.update(name, value)


@pytest.fixture
def narrow(monkeypatch):
    """Layers of a few features: convolutions take most of the time of a step."""
    import model

    monkeypatch.setattr(model, "WIDTHS", (4, 6, 8))


@pytest.fixture
def double_precision(narrow):
    """Options of a step in float64, for gradients that are compared element by element.

    The gradient that reaches the input of a batch norm has mean 0, so the gradient of
    the filter before it sums tens of thousands of terms that cancel. In float32 the
    result depends on the order of the sum, and that on the number of devices and on
    the processor's caches.
    """
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        yield {"compute_dtype": "float64"}


@pytest.fixture(scope="session")
def assert_close():
    """Compares two trees."""

    def assert_close(actual, expected, tolerance=1e-5):
        jax.tree.map(
            partial(np.testing.assert_allclose, rtol=tolerance, atol=tolerance),
            actual,
            expected,
        )

    return assert_close
