"""Weight and spectral norm of layers that they leave as they are."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest
from flax import linen as nn
from flax import nnx
from support.drawing import place
from support.refusals import refused

import jaxnorm
from jaxnorm.nnx import (
    SpectralNorm,
    WeightNorm,
    WeightStandardization,
    restore_pure_dict,
    set_batch_stats,
)

WRAPPERS = [WeightNorm, SpectralNorm, WeightStandardization]
every_wrapper = pytest.mark.parametrize("cls", WRAPPERS)


class Block(nnx.Module):
    """A layer with state of its own: statistics, and a count of random numbers."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(self.norm(self.linear(x)))


@pytest.fixture
def x(rng):
    return place(rng.normal(size=(8, 4)))


@pytest.fixture(autouse=True)
def promotion():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


forward = nnx.jit(lambda model, x: model(x))


@every_wrapper
def test_the_layer_keeps_its_parameters_and_moves_its_state(cls, x):
    """Flax's wrappers write the normalized kernel into the layer (flax#5576)."""
    block = Block(nnx.Rngs(0))
    wrapped = cls(block, rngs=nnx.Rngs(1))
    before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(block, nnx.Param)))

    @nnx.jit
    def step(wrapped, x):
        return nnx.grad(lambda wrapped: jnp.sum(jnp.sin(wrapped(x))))(wrapped)

    for _ in range(2):
        gradients = step(wrapped, x)
    kernel = gradients["layer_instance"]["linear"]["kernel"][...]
    assert np.any(kernel != 0)
    if cls is WeightNorm:  # of the direction alone
        along = np.sum(np.asarray(kernel) * np.asarray(block.linear.kernel[...]), 0)
        np.testing.assert_allclose(along, 0, atol=1e-4)
        assert np.any(gradients["scales"]["linear", "kernel"][...] != 0)
    after = nnx.to_pure_dict(nnx.state(block, nnx.Param))
    jax.tree.map(np.testing.assert_array_equal, after, before)
    assert np.any(block.norm.mean[...] != 0)
    assert block.dropout.rngs.count[...] == 2


@every_wrapper
def test_train_and_eval_reach_the_layer(cls, x):
    wrapped = cls(Block(nnx.Rngs(0)), rngs=nnx.Rngs(1))
    wrapped.eval()
    np.testing.assert_array_equal(forward(wrapped, x), forward(wrapped, x))
    stats = nnx.state(wrapped, nnx.BatchStat)
    jax.tree.map(
        np.testing.assert_array_equal,
        stats,
        nnx.state(cls(Block(nnx.Rngs(0)), rngs=nnx.Rngs(1)), nnx.BatchStat),
    )


def test_weight_norm_starts_at_what_the_layer_computes(x):
    layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    wrapped = WeightNorm(layer, initialization="preserve", rngs=nnx.Rngs(1))
    y, expected = forward(wrapped, x), forward(layer, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    kernel = np.asarray(layer.kernel[...], np.float64)
    np.testing.assert_allclose(
        wrapped.scales["kernel",][...], np.linalg.norm(kernel, axis=0), rtol=1e-5
    )


@pytest.mark.parametrize("options", [{}, {"feature_axes": None}, {"use_scale": False}])
def test_weight_norm_of_a_convolution(options, rng):
    """Norms over all axes but the last, or over all; as from NumPy."""
    conv = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))
    wrapped = WeightNorm(conv, **options, rngs=nnx.Rngs(1))
    x = place(rng.normal(size=(1, 5, 5, 2)))
    kernel = np.asarray(conv.kernel[...], np.float64)
    axes = None if "feature_axes" in options else (0, 1, 2)
    expected = nnx.Conv(2, 3, (3, 3), rngs=nnx.Rngs(0))
    unit = kernel / np.sqrt((kernel**2).sum(axes))
    expected.kernel.set_value(place(unit))
    y, expected_y = forward(wrapped, x), forward(expected, x)
    np.testing.assert_allclose(y, expected_y, rtol=1e-4, atol=1e-5)


def test_spectral_norm_divides_by_the_largest_singular_value(x):
    layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    wrapped = SpectralNorm(layer, warm_up_steps=20, rngs=nnx.Rngs(1))
    y = nnx.jit(lambda wrapped, x: wrapped(x, update_stats=False))(wrapped, x)
    kernel = np.asarray(layer.kernel[...], np.float64)
    expected = np.asarray(x, np.float64) @ kernel / np.linalg.svd(kernel)[1][0]
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    assert wrapped.batch_stats["kernel", "sigma"][...] == 1  # not updated
    forward(nnx.view(wrapped, use_running_average=True), x)
    assert wrapped.batch_stats["kernel", "sigma"][...] == 1
    forward(wrapped, x)
    assert wrapped.batch_stats["kernel", "sigma"][...] != 1


def test_standardization_with_gain(x):
    layer = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    wrapped = WeightStandardization(layer, use_gain=True, rngs=nnx.Rngs(1))
    gain = jnp.array([1.0, 2.0, 3.0])
    wrapped.gains["kernel",].set_value(gain)
    kernel = jaxnorm.standardize_weight(layer.kernel[...], gain=gain)
    np.testing.assert_allclose(wrapped(x), x @ kernel, rtol=1e-5, atol=1e-5)


@every_wrapper
def test_a_checkpoint_of_orbax(cls, tmp_path):
    """Which has its keys, of lists and of wrappers, as strings."""

    def build(seed):
        rngs = nnx.Rngs(seed)
        gains = {"use_gain": True} if cls is WeightStandardization else {}
        layers = (nnx.Linear(4, 4, rngs=rngs) for _ in range(2))
        wrapped = [cls(layer, rngs=rngs, **gains) for layer in layers]
        return nnx.Dict(blocks=nnx.List(wrapped))

    model, other = build(0), build(1)
    pure = jax.tree.map(lambda leaf: leaf + 1, nnx.to_pure_dict(nnx.state(model)))
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "it", pure)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "it")
    restore_pure_dict(other, restored)
    chex.assert_trees_all_equal(nnx.to_pure_dict(nnx.state(other)), pure)


def test_a_checkpoint_of_another_model():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    with refused("weight", "none"):
        restore_pure_dict(model, {"weight": jnp.ones((2, 3))})
    with refused("kernel", "(2, 3)", "(3, 2)"):
        restore_pure_dict(model, {"kernel": jnp.ones((3, 2))})
    given = {"pure_dict": restore_pure_dict, "batch_stats": set_batch_stats}
    for name, restore in given.items():
        with refused(f"{name} must be a dict", "NoneType"):
            restore(model, None)
        with refused("model", "flax.nnx.Module", "model.apply"):
            restore(nn.BatchNorm(), {"params": {}, "batch_stats": {}})


def test_bad_wrappers(x, as_users_run_it):
    rngs = nnx.Rngs(0)
    linear, conv = nnx.Linear(4, 3, rngs=rngs), nnx.Conv(2, 3, (3, 3), rngs=rngs)
    with pytest.raises(ValueError, match="initialization must be one of"):
        WeightNorm(linear, initialization="zeros", rngs=rngs)
    with pytest.raises(ValueError, match="use_scale must be True"):
        WeightNorm(linear, initialization="preserve", use_scale=False, rngs=rngs)
    with pytest.raises(ValueError, match="parameter is 4D but error_on_non_matrix"):
        SpectralNorm(conv, error_on_non_matrix=True, rngs=rngs)
    model = nnx.Sequential(linear)
    for cls in (WeightNorm, SpectralNorm):
        wrapped = cls(model, rngs=rngs)
        model.layers = nnx.List([linear, nnx.Linear(3, 3, rngs=rngs)])
        with pytest.raises(ValueError, match="got the new parameter"):
            wrapped(x)
        model.layers = nnx.List([linear])


def test_a_bias_that_was_0_is_left_alone():
    @jax.jit
    def run(x):
        layer = nnx.LinearGeneral(5, (3, 2), rngs=nnx.Rngs(0))
        wrapped = SpectralNorm(layer, rngs=nnx.Rngs(1))
        wrapped(x)
        layer.bias.set_value(jnp.full((3, 2), 1e-3))
        wrapped.eval()
        both = wrapped(x)
        layer.bias.set_value(jnp.zeros((3, 2)))
        return both - wrapped(x)

    np.testing.assert_allclose(run(jnp.ones((4, 5))), 1e-3, rtol=1e-3)


@pytest.mark.parametrize("restore", [restore_pure_dict, set_batch_stats])
def test_a_state_in_place_of_a_pure_dict(restore, x):
    """Its values are written, not its variables."""
    source, target = (nnx.BatchNorm(x.shape[-1], rngs=nnx.Rngs(0)) for _ in range(2))
    source(x)
    restore(target, nnx.state(source, nnx.BatchStat))
    assert isinstance(target.mean.get_value(), jax.Array)
    np.testing.assert_array_equal(target.mean[...], source.mean[...])
