"""Instance-batch norm: which features go where."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support.drawing import draw, draw_stats, place
from support.jitted import jitted
from support.refusals import refused
from support.tiers import matrix

import jaxnorm
import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx


def split_norm(x, stats, scale, bias, mask=None, **options):
    function = jitted(jaxnorm.instance_batch_norm, **options)
    return function(x, stats, scale, bias, mask=mask)


@pytest.mark.parametrize(
    ("axis", "features", "inference"),
    matrix(
        itertools.product((-1, 1), (0, 2, 5), (True, False)),
        often=[
            (-1, 0, False),
            (-1, 2, False),
            (1, 2, True),
            (-1, 5, True),
            (1, 5, False),
        ],
    ),
)
def test_its_two_parts(axis, features, inference, rng, make_mask):
    """With none and all features by instance too."""
    shape = (4, 12, 5) if axis == -1 else (4, 5, 3, 4)
    x, scale, bias = draw(rng, shape, loc=1), draw(rng, 5, loc=1), draw(rng, 5)
    stats, mask = draw_stats(rng, 5 - features), make_mask("bool", shape)
    options = {"feature_axes": axis, "use_running_average": inference}
    y, new = split_norm(
        x, stats, scale, bias, mask=mask, instance_features=features, **options
    )

    x, scale, bias, mask, y = jax.device_get((x, scale, bias, mask, y))

    def part(array, chosen):
        return np.moveaxis(np.moveaxis(array, axis, -1)[..., chosen], -1, axis)

    first, last = slice(features), slice(features, None)
    instance_norm = jitted(jaxnorm.instance_norm, epsilon=1e-5, feature_axes=axis)
    expected = instance_norm(
        part(x, first), scale[first], bias[first], mask=part(mask, first)
    )
    assert oracles.error(part(y, first), expected) <= 1e-5
    expected, moved = jitted(jaxnorm.batch_norm, **options)(
        part(x, last), stats, scale[last], bias[last], mask=part(mask, last)
    )
    assert oracles.error(part(y, last), expected) <= 1e-5
    for value, wanted in zip(new, moved, strict=True):
        assert oracles.error(value, wanted) <= 1e-5


@pytest.mark.parametrize("number", [None, 0, 1])
def test_modules_with_one_feature(number):
    """By default the batch normalizes it; more in batch/test_batch_family.py."""
    x, options = jnp.ones((4, 6, 1)), {"instance_features": number}
    norm = jaxnorm.linen.InstanceBatchNorm(use_running_average=False, **options)
    init = norm.init_with_output
    y, variables = jax.eval_shape(init, jax.random.key(0), x)
    norm = jaxnorm.nnx.InstanceBatchNorm(1, rngs=nnx.Rngs(0), **options)
    same = nnx.eval_shape(lambda norm, x: norm(x), norm, x)
    assert y.shape == same.shape == x.shape
    batch = (1 - (number or 0),)
    assert variables["batch_stats"]["mean"].shape == norm.mean.shape == batch


@pytest.mark.parametrize("number", [1.0, True, "2", -1, 6])
def test_modules_refuse_what_the_function_refuses(number):
    """Before it decides on the shape of the statistics."""
    options, x = {"instance_features": number}, jnp.ones((4, 6, 5))
    norm = jaxnorm.linen.InstanceBatchNorm(use_running_average=False, **options)
    with refused("instance_features", repr(number)):
        jax.eval_shape(norm.init, jax.random.key(0), x)
    with refused("instance_features", repr(number)):
        jaxnorm.nnx.InstanceBatchNorm(5, rngs=nnx.Rngs(0), **options)
    with refused("instance_features", repr(number)):
        jaxnorm.equinox.InstanceBatchNorm(5, **options)


def test_modules_have_one_feature_axis():
    norm = jaxnorm.linen.InstanceBatchNorm(axis=(1, 2), use_running_average=False)
    with refused("one axis", "(1, 2)"):
        jax.eval_shape(norm.init, jax.random.key(0), jnp.ones((4, 6, 5)))
    with refused("one axis", "(1, 2)"):
        jaxnorm.nnx.InstanceBatchNorm((6, 5), axis=(1, 2), rngs=nnx.Rngs(0))


def test_statistics_are_those_of_the_batch_part_alone(rng):
    """What the instance part holds moves none of them, and makes none infinite."""
    x, stats = draw(rng, (4, 12, 5)), draw_stats(rng, 3)
    options = {"instance_features": 2, "use_running_average": False}
    _, new = split_norm(x, stats, None, None, **options)
    poisoned = place(np.where(np.arange(5) < 2, np.nan, x))
    y, same = split_norm(poisoned, stats, None, None, skip_nonfinite=True, **options)
    for a, b in zip(new, same, strict=True):  # of another program
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert np.all(np.isfinite(np.asarray(y)[..., 2:]))
