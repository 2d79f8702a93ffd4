"""The model in NNX is that in Linen: the same numbers, in the same training step."""

from functools import partial

import data
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from model import create_model
from norms import NORMS
from norms_nnx import NORMS as NNX_NORMS
from parallel import PARALLELISMS
from step import collect_reference


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    """Compiling is most of the time that these tests take."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# Where the variables of a Linen module are in NNX.
PLACES = {
    "Conv_0": ("hidden", "0", "layer"),
    "Conv_1": ("hidden", "1", "layer"),
    "Dense_0": ("hidden", "2", "layer"),
    "Dense_1": ("output",),
} | {f"BatchNorm_{i}": ("hidden", str(i), "norm") for i in range(3)}


def as_nnx(variables):
    flat = traverse_util.flatten_dict(variables)
    return traverse_util.unflatten_dict(
        {(kind, *PLACES[name], leaf): v for (kind, name, leaf), v in flat.items()}
    )


def test_the_same_logits_and_statistics_from_the_same_variables(
    get_config, digits, assert_close
):
    options = {"dropout_rate": 0.3, "norm_placement": "before_activation"}
    linen, nnx = (
        create_model(get_config(api=api, **options), None) for api in ("linen", "nnx")
    )
    images, mask = digits.images[:8], jnp.arange(8) < 7
    init = jax.jit(partial(linen.init, train=False))
    variables = init(jax.random.key(0), images)
    keys = jax.random.split(jax.random.key(1), 8)

    def train_and_infer(model, variables):
        trained = model.apply(
            variables,
            images,
            mask=mask,
            dropout_keys=keys,
            train=True,
            mutable=["batch_stats"],
        )
        return trained, model.apply(variables, images, mask=mask, train=False)

    (y, updates), inferred = jax.jit(partial(train_and_infer, linen))(variables)
    actual = jax.jit(partial(train_and_infer, nnx))(as_nnx(variables))
    assert_close(actual, ((y, as_nnx(updates)), inferred))


def shapes(tree):
    return sorted(leaf.shape for leaf in jax.tree.leaves(tree))


def names_and_shapes(stats):
    flat = traverse_util.flatten_dict(stats)
    return sorted((path[-1].split("/")[-1], v.shape) for path, v in flat.items())


@pytest.mark.slow
def test_every_normalizer_has_its_module_in_nnx(get_config, digits):
    """Of as many parameters and statistics as in Linen, which a step gives back."""
    assert set(NNX_NORMS) == set(NORMS)
    images = digits.images[:32]
    for norm in NORMS:
        sizes = []
        for api in ("linen", "nnx"):
            model = create_model(get_config(api=api, norm=norm), None)
            init = partial(model.init, train=False)
            variables = jax.eval_shape(init, jax.random.key(0), images)

            def step(variables, norm=norm, model=model):
                reference = collect_reference(
                    variables["params"],
                    images if norm == "virtual" else None,
                    apply_fn=model.apply,
                )
                return model.apply(
                    {**variables, **reference},
                    images,
                    train=True,
                    mutable=["batch_stats"],
                )

            logits, updates = jax.eval_shape(step, variables)
            assert logits.shape == (32, 10)
            stats = variables.get("batch_stats", {})
            assert updates.get("batch_stats", {}) == stats
            sizes.append((shapes(variables["params"]), names_and_shapes(stats)))
        assert sizes[0] == sizes[1], norm


# test_mnist_parallel.py has a step of the same model in Linen.
@pytest.mark.full
@pytest.mark.parametrize(
    "parallelism",
    PARALLELISMS,
)
def test_a_step_equals_that_of_one_device(
    run, assert_close, double_precision, parallelism
):
    options = {"api": "nnx"} | double_precision
    expected = run("jit", range(13), size=13, num_devices=1, **options)
    gradients, statistics, sums = run(parallelism, range(13), size=16, **options)
    assert_close(gradients, expected[0])
    assert_close(sums, expected[2])
    assert_close(
        jax.tree.map(lambda leaf: leaf[3], statistics),
        jax.tree.map(lambda leaf: leaf[0], expected[1]),
    )


@pytest.mark.slow
def test_it_trains_with_a_reference_batch(build, digits):
    parallel, state = build("jit", 1, norm="virtual", learning_rate=0.02, api="nnx")
    batch = parallel.place_batch(partial(data.take, digits, np.arange(16)), 16)
    state = parallel.place_state(state)
    losses = []
    for _ in range(4):
        state, sums = parallel.train_step(state, batch)
        losses.append(float(sums.loss))
    assert losses[-1] < losses[0]
