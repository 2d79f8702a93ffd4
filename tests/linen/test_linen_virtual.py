"""`VirtualBatchNorm` in a model: a reference pass before each pass."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import linen as nn
from oracles import virtual_batch_norm
from support.drawing import place

import jaxnorm.linen

WIDTHS = (4, 3)
KEY = jax.random.key(0)


class Model(nn.Module):
    """Two layers, so that the second reference depends on the first one."""

    @nn.compact
    def __call__(self, x):
        for width in WIDTHS:
            x = jnp.tanh(jaxnorm.linen.VirtualBatchNorm()(nn.Dense(width)(x)))
        return x


@pytest.fixture
def batches(rng):
    """A reference batch and another one."""
    return tuple(place(rng.normal(0.5, 1, (n, 2, 3))) for n in (8, 5))


@functools.cache
def initial():
    return jax.jit(Model().init)(KEY, jnp.ones((8, 2, 3)))


@pytest.fixture
def params(rng):
    return jax.tree.map(
        lambda leaf: place(rng.uniform(-0.5, 1, leaf.shape), leaf.dtype),
        jax.eval_shape(Model().init, KEY, jnp.ones((8, 2, 3)))["params"],
    )


def two_passes(params, reference_batch, x):
    """As in the class docstring."""
    _, reference = Model().apply(
        {"params": params}, reference_batch, mutable=["reference"]
    )
    return Model().apply({"params": params, **reference}, x)


compiled = jax.jit(two_passes)


def oracle_model(params, reference_batch, x):
    """Both batches, layer by layer."""
    size = len(reference_batch)
    reference_batch, x = oracles.wide(reference_batch), oracles.wide(x)
    for layer in range(len(WIDTHS)):
        dense, norm = params[f"Dense_{layer}"], params[f"VirtualBatchNorm_{layer}"]
        affine = norm["scale"], norm["bias"]
        kernel, bias = oracles.wide(dense["kernel"]), oracles.wide(dense["bias"])
        reference_batch, x = reference_batch @ kernel + bias, x @ kernel + bias
        _, mean, var = oracles.moments(reference_batch)
        x = virtual_batch_norm(x, mean, var, *affine, reference_size=size)
        y, _, _ = oracles.batch_norm(reference_batch, mean, var, *affine)
        reference_batch, x = np.tanh(y), np.tanh(x)
    return x


def test_a_network_with_a_reference_batch_matches_the_oracle(batches, params):
    assert oracles.error(
        compiled(params, *batches), oracle_model(params, *batches)
    ) <= (1e-5)


def test_init_stores_a_reference_that_is_not_a_parameter(batches):
    """Initialization takes its batch for the reference; it is not a parameter."""
    variables = initial()
    assert set(variables) == {"params", "reference"}
    for layer, width in enumerate(WIDTHS):
        reference = variables["reference"][f"VirtualBatchNorm_{layer}"]
        shapes = {name: leaf.shape for name, leaf in reference.items()}
        feature = (width,)
        assert shapes == {"count": feature, "mean": feature, "var": feature, "size": ()}
        assert reference["size"] == 8
        np.testing.assert_array_equal(reference["count"], 16)


def test_gradients_flow_through_the_reference(batches, params, rng, x64):
    """They are those of the oracle, in the parameters and in the reference batch."""
    arguments = jax.tree.map(oracles.wide, (params, *batches))
    direction = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape), arguments)
    weight = rng.normal(size=(5, 2, WIDTHS[-1]))

    def loss(*arguments):
        return jnp.sum(two_passes(*arguments) * weight)

    gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*arguments)
    slope = sum(
        np.sum(a * b)
        for a, b in zip(*map(jax.tree.leaves, (gradients, direction)), strict=True)
    )
    ends = [
        np.sum(weight * oracle_model(*jax.tree.map(
            lambda a, d, move=move: a + move * d, arguments, direction)))
        for move in (1e-5, -1e-5)
    ]  # fmt: skip
    # the moments of a reference are stored in float64 as well
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(gradients[1]))


def test_an_example_does_not_depend_on_the_others(batches, params):
    reference_batch, x = batches
    y = compiled(params, reference_batch, x)
    changed = np.array(x)
    changed[1:] *= 7
    other = compiled(params, reference_batch, changed)
    y, other = np.asarray(y), np.asarray(other)
    np.testing.assert_allclose(other[0], y[0], rtol=1e-6)
    assert np.any(np.abs(other[1:] - y[1:]) > 0.01)


def test_the_second_pass_stores_nothing(batches, params):
    @jax.jit
    def run(params, reference_batch, x):
        def collect(variables):
            return Model().apply(variables, reference_batch, mutable=["reference"])[1]

        reference = collect({"params": params})
        variables = {"params": params, **reference}
        _, updates = Model().apply(variables, x, mutable=["batch_stats"])
        forgotten = jax.tree.map(jnp.zeros_like, reference)
        return updates, reference, collect({"params": params, **forgotten})

    updates, reference, again = run(params, *batches)
    assert not jax.tree.leaves(updates)
    # and collecting anew forgets the old one
    chex.assert_trees_all_equal(again, reference)


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_missing_reference_is_an_error(transform, batches, params):
    def apply(params, x):
        return Model().apply({"params": params}, x)

    with pytest.raises(ValueError, match=r"VirtualBatchNorm_0 needs a reference batch"):
        transform(apply)(params, batches[1])
