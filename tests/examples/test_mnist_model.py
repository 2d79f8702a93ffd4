from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model import create_model


@pytest.fixture
def images(rng):
    return rng.integers(0, 256, (4, 28, 28, 1), np.uint8)


def init(model, images):
    return jax.jit(partial(model.init, train=False))(jax.random.key(0), images)


def abstract_variables(model, images):
    return jax.eval_shape(partial(model.init, train=False), jax.random.key(0), images)


def test_variables_of_the_default_model(get_config, images):
    variables = abstract_variables(create_model(get_config(), axis_name=None), images)
    shapes = jax.tree.map(jnp.shape, variables)
    assert shapes["params"]["Conv_0"]["kernel"] == (3, 3, 1, 32)
    assert shapes["params"]["Conv_1"]["kernel"] == (3, 3, 32, 64)
    assert shapes["params"]["Dense_0"]["kernel"] == (12 * 12 * 64, 128)
    assert shapes["params"]["Dense_1"]["kernel"] == (128, 10)
    assert shapes["batch_stats"] == {
        f"BatchNorm_{i}": {"mean": (size,), "var": (size,), "count": ()}
        for i, size in enumerate((32, 64, 128))
    }


def test_a_constant_momentum_needs_no_count(get_config, images):
    config = get_config(bn_momentum_warmup=False)
    variables = abstract_variables(create_model(config, axis_name=None), images)
    assert set(variables["batch_stats"]["BatchNorm_0"]) == {"mean", "var"}


@pytest.mark.parametrize("placement", ["before_activation", "after_activation"])
def test_placement(get_config, images, placement):
    # After the activation, the average of what is normalized cannot be negative.
    config = get_config(norm_placement=placement, bn_momentum_warmup=False)
    model = create_model(config, axis_name=None)

    @jax.jit
    def first_step(images):
        variables = model.init(jax.random.key(0), images, train=False)
        return model.apply(variables, images, train=True, mutable=["batch_stats"])

    _, updates = first_step(images)
    lowest = min(
        float(stats["mean"].min()) for stats in updates["batch_stats"].values()
    )
    assert (lowest >= 0) == (placement == "after_activation")


def test_no_normalization_has_no_statistics(get_config, images):
    model = create_model(get_config(norm="none"), axis_name=None)
    variables = abstract_variables(model, images)
    assert set(variables) == {"params"}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_parameters_statistics_and_logits_are_float32(get_config, images, dtype):
    model = create_model(get_config(compute_dtype=dtype), axis_name=None)
    variables = abstract_variables(model, images)
    apply = partial(model.apply, train=False, capture_intermediates=True)
    logits, intermediates = jax.eval_shape(apply, variables, images)
    assert logits.dtype == jnp.float32
    for leaf in jax.tree.leaves(variables):
        assert leaf.dtype == jnp.float32
    hidden = intermediates["intermediates"]["BatchNorm_1"]["__call__"][0]
    assert hidden.dtype == dtype


def test_dropout_is_a_function_of_the_key_of_each_example(get_config, images):
    model = create_model(get_config(dropout_rate=0.5, norm="none"), axis_name=None)
    variables = init(model, images)

    @jax.jit
    def logits(seeds):
        keys = jax.vmap(jax.random.key)(seeds)
        return model.apply(variables, images, dropout_keys=keys, train=True)

    few, others = logits(np.array([0, 1, 2, 3])), logits(np.array([7, 1, 2, 3]))
    assert not np.allclose(few[0], others[0])
    np.testing.assert_allclose(few[1:], others[1:], rtol=1e-6)


def test_no_keys_no_dropout(get_config, images):
    config = get_config(dropout_rate=0.5)
    model = create_model(config, axis_name=None)
    without = create_model(get_config(), axis_name=None)
    variables = init(model, images)
    logits = [
        jax.jit(partial(m.apply, train=False))(variables, images)
        for m in (model, without)
    ]
    np.testing.assert_array_equal(*logits)
