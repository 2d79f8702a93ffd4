"""What every test runs under: eight CPU devices and strict numerics."""

import gc
import os
from importlib import metadata

import hypothesis
import jax
import jaxtyping
import numpy as np
import pytest

# Most of the time goes into compiling what runs once, so it is compiled quickly and not
# for speed. With XLA_FLAGS= in the environment, tests run what users run, in twice the
# time.
quickly = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    # After 40 seconds, which pass on a busy machine, a device that waits for the others
    # would end the process.
    "--xla_cpu_collective_call_terminate_timeout_seconds=1200",
]
if metadata.version("jaxlib").startswith("0.10."):  # which others do not know
    quickly.append("--xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("XLA_FLAGS", " ".join(quickly))

# An accelerator is another number of devices, with another rounding. The processes that
# tests start are told, too.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
# Before anything touches a device: later, the number of devices is fixed.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
# Checks of annotations at run time take a twelfth of the time. Files that call every
# function and every module ask for them; with JAXTYPING_DISABLE=0 in the environment,
# all tests have them.
if "JAXTYPING_DISABLE" not in os.environ:
    jaxtyping.config.update("jaxtyping_disable", True)
# Nobody looks up where in a test an instruction of a compiled program comes from.
jax.config.update("jax_traceback_in_locations_limit", 0)
# Tracing makes many objects that live, through which the collector goes in vain: it
# waits for the end of a file, and then looks at what is new.
gc.disable()

# The first example of a law compiles, and the machine may be busy, so that no measure
# of time is fair.
hypothesis.settings.register_profile(
    "jaxnorm",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=True,
    database=None,
    max_examples=20,
)
hypothesis.settings.load_profile("jaxnorm")


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marks
def pytest_collection_modifyitems(items):
    """Leaves most docstrings to the full tier: each of their operations is compiled.

    The default tier has those in which a state goes in and out, and those of the tools.
    """
    often = "jaxnorm._core.", "jaxnorm.batch.", "jaxnorm.tools."
    long = "jaxnorm._core.arrays.rematerialization."  # gradients of a model, one by one
    for item in items:
        if isinstance(item, pytest.DoctestItem) and (
            not item.name.startswith(often) or item.name.startswith(long)
        ):
            item.add_marker(pytest.mark.full)


@pytest.fixture(scope="session", autouse=True)
def eight_devices():
    found = len(jax.devices("cpu"))
    assert found == 8, f"the tests need 8 CPU devices, and found {found}"


@pytest.fixture(scope="module", autouse=True)
def collect_garbage():
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def disable_annotations(disable):
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", disable)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture(scope="module")
def annotations_checked():
    """With run-time checks of the annotations of all functions."""
    yield from disable_annotations(False)


@pytest.fixture
def as_users_run_it():
    """Without these checks, which would complain first."""
    yield from disable_annotations(True)


@pytest.fixture
def as_on_gpus(monkeypatch):
    """Sums and products that GPUs compute in a form of their own, on the CPU too."""
    sums, products = "jaxnorm._core.reductions.staged_sums", "jaxnorm._core.fusion"
    monkeypatch.setattr(f"{sums}._LARGE", 1)
    monkeypatch.setattr(f"{sums}._FIRST", 2)
    for module in (sums, products):
        monkeypatch.setattr(
            f"{module}.by_platform", lambda *args, gpu, default: gpu(*args)
        )
    # Moments are traced once for all of the same shapes: not as before, nor after.
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture
def standard_promotion():
    """Mixed dtypes and ranks promote as they do for users of JAX."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def make_mask(rng):
    """Masks of each kind for an array of the given shape, channels last."""

    def make(kind, shape):
        return None if kind is None else jax.device_put(draw(kind, shape))

    def draw(kind, shape):
        drawn = rng.uniform(size=shape)
        match kind:
            case "bool":
                return drawn < 0.7
            case "integer":  # any integer but 0 means that the element takes part
                return np.floor(4 * drawn).astype(np.int32)
            case "weights":
                return np.where(drawn < 0.3, 0, 2 * drawn).astype(np.float32)
            case "examples":
                first = drawn.reshape(shape[0], -1)[:, 0]
                kept = first < np.quantile(first, 0.6)
                return kept.reshape(-1, *(1,) * (len(shape) - 1))
            case "lower rank":  # aligned at the end, as NumPy broadcasts
                first = drawn[0, ..., :1]
                return first < np.median(first)
            case "empty feature":
                return (drawn < 0.7) & (np.arange(shape[-1]) != 1)
            case "empty":
                return np.zeros(shape, bool)
        raise ValueError(f"no mask is called {kind!r}")

    return make
