"""What the modules of per-example normalizers do, and those of `flax.linen` do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import linen as nn
from support.beside_flax import FUNCTIONS, NEEDED, SHAPE, build, every_norm
from support.drawing import place

import jaxnorm
import jaxnorm.linen

# Flax's classes raise under strict dtype promotion in half precision.
pytestmark = pytest.mark.usefixtures("standard_promotion")


@pytest.fixture
def x(rng):
    return place(rng.normal(size=SHAPE) * 2 + 1)


def test_group_norm_takes_a_mask_that_the_features_share(x, rng):
    mask = rng.uniform(size=(*SHAPE[:2], 1)) < 0.6
    mask[:, 0] = True
    ours, flax = build("GroupNorm")

    @jax.jit
    def run(key, x, mask):
        variables = ours.init(key, x)
        y = ours.apply(variables, x, mask=mask)
        return (
            variables,
            y,
            flax.apply(variables, x, mask=jnp.broadcast_to(mask, SHAPE)),
        )

    variables, y, whole = run(jax.random.key(0), x, mask)
    np.testing.assert_allclose(y, whole, rtol=1e-4, atol=1e-4)
    with pytest.raises(TypeError, match="reshape"):  # when it can, widen ours no more
        jax.eval_shape(flax.apply, variables, x, mask=jax.device_put(mask))


@every_norm
def test_a_floating_mask_is_weights(name, x, rng):
    weights = place(rng.uniform(0.1, 2, size=SHAPE))
    norm, _ = build(name)
    function = functools.partial(getattr(jaxnorm, FUNCTIONS[name]), **NEEDED[name])

    @jax.jit
    def run(key, x, weights):
        y = norm.apply(norm.init(key, x), x, mask=weights)
        return y, function(x, mask=weights), function(x)

    y, expected, unweighted = run(jax.random.key(0), x, weights)
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    assert np.max(np.abs(y - unweighted)) > 0.1


@every_norm
def test_axes_and_groups_of_devices_count_after_initialization_alone(name, rng):
    x = np.float32(rng.normal(size=(4, 2, 3, 8)))  # devices first
    axes = {"reduction_axes": (1, 2)} if name in ("LayerNorm", "RMSNorm") else {}
    groups = {"axis_name": "space", "axis_index_groups": [[0, 2], [1, 3]]}
    norm, _ = build(name, **axes, **groups)
    variables = jax.jit(norm.init)(jax.random.key(0), x[0])
    with pytest.raises(NameError, match="space"):
        jax.eval_shape(norm.apply, variables, x[0])
    apply = jax.pmap(
        norm.apply, axis_name="space", in_axes=(None, 0), devices=jax.devices()[:4]
    )
    y = np.asarray(apply(variables, x))
    alone = jax.jit(build(name, **axes)[0].apply)
    for group in groups["axis_index_groups"]:
        whole = alone(variables, np.concatenate(x[np.array(group)], axis=1))
        np.testing.assert_allclose(
            np.concatenate(y[group], axis=1), whole, rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", ["LayerNorm", "GroupNorm", "InstanceNorm"])
def test_far_from_zero_nearer_to_the_truth_than_flax(name, rng):
    """Whose mean is rounded to float32, even with two passes."""
    x = jax.device_put(np.float32(rng.normal(size=SHAPE)) + np.float32(1e6))
    norms = build(name, use_fast_variance=False)
    ours, flax = jax.jit(
        lambda x: [norm.init_with_output(jax.random.key(0), x)[0] for norm in norms]
    )(x)
    expected = getattr(oracles, FUNCTIONS[name])(x, **NEEDED[name])
    assert np.max(np.abs(ours - expected)) < 1e-5
    assert np.max(np.abs(flax - expected)) > 1e-3


@pytest.mark.parametrize("offset", [1.0, 0.5])
def test_rms_norm_starts_at_the_identity_whatever_the_offset(offset, x):
    norm = jaxnorm.linen.RMSNorm(scale_offset=offset)
    given = jaxnorm.linen.RMSNorm(scale_init=nn.initializers.ones, scale_offset=offset)
    (y, variables), (expected, _), (_, given) = jax.jit(
        lambda key: [
            module.init_with_output(key, x) for module in (norm, nn.RMSNorm(), given)
        ]
    )(jax.random.key(0))
    np.testing.assert_array_equal(variables["params"]["scale"], 1 - offset)
    np.testing.assert_allclose(y, expected, rtol=1e-5)
    np.testing.assert_array_equal(given["params"]["scale"], 1)


def test_group_norm_of_another_axis(x):
    first, last = (
        jaxnorm.linen.GroupNorm(num_groups=4, feature_axes=axis) for axis in (1, -1)
    )

    @jax.jit
    def run(key, x):
        y, variables = last.init_with_output(key, x)
        return y, first.apply(variables, jnp.moveaxis(x, -1, 1))

    y, moved = run(jax.random.key(0), x)
    np.testing.assert_allclose(np.moveaxis(moved, 1, -1), y, rtol=1e-5, atol=1e-6)
