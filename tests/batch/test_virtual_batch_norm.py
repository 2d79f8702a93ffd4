"""Virtual batch norm: each example by itself and the reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw
from support.jitted import jitted

import jaxnorm

SHAPE = (4, 6, 5)


collect = jax.jit(jaxnorm.collect_reference)


@functools.partial(jax.jit, static_argnames="include_self")
def virtual(x, reference, size, include_self=True):
    options = {"reference_size": size, "include_self": include_self}
    return jaxnorm.virtual_batch_norm(x, reference, **options)


def collected(rng):
    return collect(draw(rng, (7, 6, 5), loc=1, std=2))[1:]


@pytest.mark.parametrize("kind", [None, "bool", "weights", "examples"])
def test_the_reference_is_normalized_as_by_batch_norm(kind, rng, make_mask):
    x, scale, bias = draw(rng, (8, 6, 5), loc=3), draw(rng, 5, loc=1), draw(rng, 5)
    mask = make_mask(kind, x.shape)
    y, moments, size = collect(x, scale, bias, mask=mask)
    expected = oracles.batch_norm(x, np.zeros(5), np.ones(5), scale, bias, mask=mask)[0]
    assert oracles.error(y, expected) <= 1e-5
    for value, wanted in zip(moments, oracles.moments(x, mask=mask), strict=True):
        assert oracles.error(value, wanted) <= 1e-5
    valid = np.ones(8) if mask is None else np.any(np.asarray(mask) != 0, (1, 2))
    assert float(size) == valid.sum()


@pytest.mark.parametrize("shape", [(), (5,), (1, 1, 1), (6, 1), (8, 1, 1)])
def test_the_number_of_reference_examples(shape, rng):
    """Of those with a valid element, whether or not the mask has an axis of them."""
    x = draw(rng, (8, 6, 5))
    for value, wanted in ((True, 8), (False, 0)):
        _, moments, size = collect(x, mask=np.full(shape, value))
        assert size == wanted
        np.testing.assert_array_equal(moments.count, np.full(5, 6.0 * wanted))


def test_an_example_does_not_see_its_neighbours(rng):
    x, (reference, size) = draw(rng, SHAPE), collected(rng)
    together = virtual(x, reference, size)
    x, factor = np.asarray(x), np.float32([1, 9, 9, 9]).reshape(4, 1, 1)
    changed = virtual(x * factor, reference, size)
    alone = virtual(x[:1], reference, size)
    together, changed = np.asarray(together), np.asarray(changed)
    np.testing.assert_array_equal(together[0], changed[0])
    assert oracles.error(alone, together[:1]) <= 1e-5


def test_without_the_example_it_is_inference(rng):
    x, (reference, size) = draw(rng, SHAPE), collected(rng)
    y = virtual(x, reference, size, include_self=False)
    stats = jaxnorm.BatchStats(reference.mean, reference.var)
    expected, _ = jitted(jaxnorm.batch_norm, use_running_average=True)(x, stats)
    assert oracles.error(y, expected) <= 1e-6
    mixed = virtual(x, reference, size)
    assert oracles.error(mixed, expected) > 1e-3
    many = virtual(x, reference, 1e9)
    assert oracles.error(many, expected) <= 1e-5


@pytest.mark.parametrize("shape", [(1, 6, 5), (1, 5)])
def test_a_copy_of_the_reference_moves_nothing(shape, rng):
    """With itself as the one reference an example is normalized by itself."""
    x = draw(rng, shape, loc=2)
    y, reference, size = collect(x)
    again = virtual(x, reference, size)
    assert oracles.error(again, y) <= 1e-5


@pytest.mark.parametrize("include_self", [True, False])
def test_gradients_through_the_reference(include_self, rng, x64):
    """Of what both passes give, in the reference batch too."""
    arguments = (
        draw(rng, SHAPE, np.float64),
        draw(rng, (7, 6, 5), np.float64, loc=1, std=2),
        draw(rng, 5, np.float64, loc=1),
        draw(rng, 5, np.float64),
    )
    weight, own_weight = draw(rng, SHAPE, float), draw(rng, (7, 6, 5), float)

    def loss(x, batch, scale, bias):
        own, reference, size = jaxnorm.collect_reference(batch, scale, bias)
        y = jaxnorm.virtual_batch_norm(
            x, reference, scale, bias, reference_size=size, include_self=include_self
        )
        return jnp.sum(weight * y) + jnp.sum(own_weight * own)

    def plain(x, batch, scale, bias):
        _, mean, var = oracles.moments(batch)
        own = oracles.batch_norm(batch, mean, var, scale, bias)[0]
        options = {"reference_size": 7, "include_self": include_self}
        y = oracles.virtual_batch_norm(x, mean, var, scale, bias, **options)
        return np.sum(weight * y) + np.sum(own_weight * own)

    gradients = jax.jit(jax.grad(loss, (0, 1, 2, 3)))(*arguments)
    for i, gradient in enumerate(gradients):
        directions = [None] * 4
        directions[i] = rng.normal(size=gradient.shape)
        wanted = oracles.directional(plain, arguments, directions, step=1e-5)
        assert abs(np.sum(gradient * directions[i]) - wanted) <= 1e-7


def test_a_stopped_reference_is_a_constant(rng):
    x, (reference, size) = draw(rng, SHAPE), collected(rng)

    def loss(reference):
        reference = jax.lax.stop_gradient(reference)
        y = jaxnorm.virtual_batch_norm(x, reference, reference_size=size)
        return jnp.sum(y**2)

    for leaf in jax.jit(jax.grad(loss))(reference):
        np.testing.assert_array_equal(leaf, 0)
