"""New running statistics from data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx, struct
from flax.training import train_state
from support.drawing import place
from support.refusals import refused
from support.small_net import NET, collect, make_images, make_variables

import jaxnorm.linen
from jaxnorm.tools import diagnose, recalibrate

FIRST = "BatchNorm_0"  # on the input itself

images = pytest.fixture(make_images)
variables = pytest.fixture(make_variables)


def uneven(images):
    return [jax.device_put(part) for part in np.split(np.asarray(images), [10])]


apply = jax.jit(NET.apply, static_argnums=2, static_argnames="mutable")


def test_precise_statistics_of_uneven_batches(variables, images):
    stats = recalibrate(collect(True), variables, uneven(images))
    x = np.asarray(images, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(stats[FIRST]["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats[FIRST]["var"], x.var(0), rtol=1e-5)
    shapes = jax.tree.map(jnp.shape, variables["batch_stats"])
    assert jax.tree.map(jnp.shape, stats) == shapes


def test_layer_by_layer_they_are_those_of_the_full_batch(variables, images):
    # In inference mode three passes make the three layers right, one after another,
    # and a fourth changes nothing.
    def recalibrated(passes):
        return recalibrate(collect(False), variables, uneven(images), passes=passes)

    stats = recalibrated(3)
    trained = apply(variables, images, True, mutable=("batch_stats",))[0]
    inferred = apply({**variables, "batch_stats": stats}, images, False)
    np.testing.assert_allclose(inferred, trained, atol=2e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        recalibrated(4),
        stats,
    )
    last = recalibrated(2)["BatchNorm_2"]["var"]
    assert not np.allclose(last, stats["BatchNorm_2"]["var"], rtol=1e-3)


def test_an_affine_change_of_the_input_is_undone(variables, images):
    # The first norm is on the input, so that only epsilon is in the way.
    known = recalibrate(collect(False), variables, [images], passes=3)
    changed = place(3 * np.asarray(images) + 1)
    adapted = recalibrate(collect(False), variables, [changed], passes=3)
    np.testing.assert_allclose(
        apply({**variables, "batch_stats": adapted}, changed, False),
        apply({**variables, "batch_stats": known}, images, False),
        atol=2e-5,
    )


def test_an_affine_change_is_undone_through_a_valid_convolution(images):
    # Without padding, a convolution of an affine input is affine in each channel.
    model = nn.Sequential(
        [
            nn.Conv(3, (3, 3), padding="VALID"),
            jaxnorm.linen.BatchNorm(use_running_average=True),
        ]
    )
    variables = jax.jit(model.init)(jax.random.key(0), images)

    @jax.jit
    def collect(variables, images):
        return model.apply(variables, images, mutable=["batch_moments"])[1][
            "batch_moments"
        ]

    def output(images):
        stats = recalibrate(collect, variables, [images])
        return jax.jit(model.apply)({**variables, "batch_stats": stats}, images)

    changed = place(3 * np.asarray(images) + 1)
    np.testing.assert_allclose(output(changed), output(images), atol=2e-5)


def test_padding_is_left_out(variables, images):
    apply = collect(True)
    padded = place(np.pad(images, [(0, 4), *[(0, 0)] * 3], constant_values=np.nan))
    mask = jax.device_put(np.arange(len(padded)) < len(images))
    masked = recalibrate(lambda v, b: apply(v, *b), variables, [(padded, mask)])
    plain = recalibrate(apply, variables, [images])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        masked,
        plain,
    )


def test_a_prior_of_source_examples(variables, images):
    source = {
        **variables["batch_stats"],
        FIRST: {"mean": jnp.array([1.0, 5.0]), "var": jnp.array([2.0, 3.0])},
    }
    stats = recalibrate(
        collect(True),
        {**variables, "batch_stats": source},
        uneven(images),
        prior_examples=8,
    )[FIRST]
    x = np.asarray(images, np.float64).reshape(-1, 2)
    weight = 8 / (8 + 24)
    distance = x.mean(0) - [1.0, 5.0]
    np.testing.assert_allclose(
        stats["mean"], weight * np.array([1, 5]) + (1 - weight) * x.mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(
        stats["var"],
        weight * np.array([2, 3])
        + (1 - weight) * x.var(0)
        + weight * (1 - weight) * distance**2,
        rtol=1e-5,
    )
    heavy = recalibrate(
        collect(True),
        {**variables, "batch_stats": source},
        [images],
        prior_examples=8,
        count_examples=lambda batch: 1e-3,
    )[FIRST]
    np.testing.assert_allclose(heavy["mean"], source[FIRST]["mean"], rtol=1e-3)


def test_over_devices(variables, images):
    # Each device has its part, and what it collects is that of all.
    spread = type(NET)(axis_name="device")

    def apply(variables, images):
        moments = jax.pmap(
            lambda part: spread.apply(variables, part, True, mutable=["batch_moments"])[
                1
            ]["batch_moments"],
            axis_name="device",
        )(np.asarray(images).reshape(8, -1, *images.shape[1:]))
        return jax.tree.map(lambda leaf: jax.device_put(np.asarray(leaf)[0]), moments)

    stats = recalibrate(apply, variables, [images])[FIRST]
    x = np.asarray(images, np.float64).reshape(-1, 2)
    np.testing.assert_allclose(stats["mean"], x.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], x.var(0), rtol=1e-5)


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([], {}, "at least one batch"),
        ([0], {"passes": 0}, "passes must be at least 1"),
        (iter([0]), {"passes": 2}, "got an iterator"),
        ([0], {"prior_examples": -1}, "prior_examples"),
    ],
)
def test_bad_input(variables, images, batches, options, message):
    with pytest.raises(ValueError, match=message):
        recalibrate(collect(True), variables, batches, **options)
    with pytest.raises(ValueError, match="BatchNorm_0 has statistics"):
        recalibrate(lambda *_: {}, variables, [images])


class Batch(NamedTuple):
    images: Any
    labels: Any


NO_BATCHES = {
    "one array": (lambda x: x, ("(24, 6, 6, 2)", "[batch]", "list(batches)")),
    "one of NumPy": (lambda x: np.asarray(x), ("ndarray", "[batch]")),
    "one dict": (lambda x: {"images": x}, ("dict", "[batch]")),
    "one named tuple": (lambda x: Batch(x, x), ("Batch", "[batch]")),
    "images and labels": (lambda x: (x, x[:, 0, 0, 0]), ("(4,)", "(1,)", "[batch]")),
    "a function": (lambda x: lambda: [x], ("function",)),
    "nothing": (lambda x: None, ("NoneType",)),
    "a path": (lambda x: "data", ("str",)),
}


@pytest.mark.parametrize("what", NO_BATCHES)
@pytest.mark.usefixtures("as_users_run_it")
def test_one_batch_is_not_taken_for_batches(variables, images, what):
    """Its rows, keys or parts would be."""
    make, says = NO_BATCHES[what]
    with refused("batches", *says):
        recalibrate(collect(True), variables, make(images))


class Loader:
    """As PyTorch's: no sequence, and iterating it does much."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize("kind", [tuple, iter, Loader])
def test_batches_of_other_types(variables, images, kind):
    expected = recalibrate(collect(True), variables, uneven(images))
    actual = recalibrate(collect(True), variables, kind(uneven(images)))
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_batches_that_are_lists_of_examples(variables, images):
    expected = recalibrate(collect(True), variables, uneven(images))
    actual = recalibrate(
        lambda variables, batch: collect(True)(variables, jnp.stack(batch)),
        variables,
        [[*batch] for batch in uneven(images)],
    )
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_counting_examples_needs_a_function(variables, images):
    with refused("count_examples", "int"):
        recalibrate(collect(True), variables, [images], count_examples=3)


@struct.dataclass
class TrainState(train_state.TrainState):
    """As examples and users write it."""

    batch_stats: Any


def make_state():
    return TrainState.create(
        apply_fn=None, params={}, batch_stats={}, tx=optax.identity()
    )


def make_nnx():
    return nnx.BatchNorm(2, rngs=nnx.Rngs(0))


NO_VARIABLES = {
    "a TrainState": (make_state, "state.batch_stats"),
    "an NNX module": (make_nnx, "jaxnorm.nnx.collecting"),
    "its state": (lambda: nnx.state(make_nnx()), "jaxnorm.nnx.collecting"),
    "parameters alone": (lambda: {"params": {}}, "batch_stats"),
    "no batch norm": (lambda: {"params": {}, "batch_stats": {}}, "Group"),
}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("passes", 2.0),
        ("passes", None),
        ("prior_examples", "2"),
        ("prior_examples", float("nan")),
        ("prior_examples", -1),
    ],
)
def test_passes_and_prior_examples_must_be_numbers(images, name, value):
    with refused(name, str(value)):
        recalibrate(collect(True), {"params": {}}, [images], **{name: value})


@pytest.mark.parametrize("what", NO_VARIABLES)
@pytest.mark.usefixtures("as_users_run_it")
def test_variables_of_another_type_are_an_error(images, what):
    make, says = NO_VARIABLES[what]
    with refused("variables", says):
        recalibrate(collect(True), make(), [images])
    with refused("variables", says):
        diagnose(apply, make(), images)


class FlaxNet(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(x)


def of_flax(variables, images, train=True):
    return FlaxNet().apply(variables, images, train, mutable=["batch_moments"])


def with_no_collection(variables, images, train=True):
    return NET.apply(variables, images, train)


NO_APPLY = {
    "a Linen model": (NET, "Net"),
    "an NNX model": (make_nnx(), "BatchNorm"),
    "a TrainState": (make_state(), "TrainState"),
    "a model with Flax's norms": (of_flax, "jaxnorm.linen.BatchNorm"),
    "nothing mutable": (with_no_collection, 'mutable=["batch_moments"]'),
}


@pytest.mark.parametrize("what", NO_APPLY)
@pytest.mark.usefixtures("as_users_run_it")
def test_an_apply_that_collects_no_moments_is_an_error(variables, images, what):
    apply, says = NO_APPLY[what]
    if apply is of_flax:
        variables = FlaxNet().init(jax.random.key(0), images, False)
    with refused("must", says):
        recalibrate(apply, variables, [images])
    with refused("must", says):
        diagnose(apply, variables, images)
