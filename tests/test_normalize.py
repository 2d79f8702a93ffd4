"""Normalization with given statistics, and its inverse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw_stats, place
from support.refusals import refused

import jaxnorm

pytestmark = pytest.mark.usefixtures("annotations_checked")

FEATURES = 4


def draw(rng, dtype, shape):
    """x, mean, var, scale and bias."""
    stats = draw_stats(rng, FEATURES)
    scale, bias = rng.uniform(0.5, 2, FEATURES), rng.normal(size=FEATURES)
    return place(rng.normal(size=shape), dtype), *stats, place(scale), place(bias)


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize(
    ("shape", "feature_axes"), [((3, 4), -1), ((4, 2, 3), 0), ((2, 3, 4), 2)]
)
@pytest.mark.parametrize("affine", [True, False])
def test_denormalize_inverts_normalize(affine, shape, feature_axes, dtype, rng):
    x, mean, var, *params = draw(rng, dtype, shape)
    options = {"epsilon": 0.1, "feature_axes": feature_axes}

    @jax.jit
    def there_and_back(x, mean, var, *params):
        y = jaxnorm.normalize(x, mean, var, *params, **options)
        return y, jaxnorm.denormalize(y, mean, var, *params, **options)

    y, back = there_and_back(x, mean, var, *(params if affine else ()))
    assert oracles.error(back, x) <= 1e-6 and oracles.error(y, x) > 0.1


def test_values_and_gradients_of_denormalize(rng):
    y, *others = draw(rng, np.float32, (5, FEATURES))
    weight = place(rng.normal(size=y.shape))

    @jax.jit
    def step(*arguments):
        def loss(*arguments):
            x = jaxnorm.denormalize(*arguments, epsilon=0.1)
            return jnp.sum(weight * x), x

        return jax.grad(loss, range(5), has_aux=True)(*arguments)

    gradients, x = step(y, *others)
    dx, y = oracles.wide(weight), oracles.wide(y)
    mean, var, scale, bias = map(oracles.wide, others)
    std, z = np.sqrt(var + 0.1), (y - bias) / scale
    assert oracles.error(x, z * std + mean) <= 1e-6
    expected = (
        dx * std / scale,
        dx.sum(0),
        (dx * z).sum(0) / (2 * std),
        -(dx * z * std / scale).sum(0),
        -(dx * std / scale).sum(0),
    )
    for actual, wanted in zip(gradients, expected, strict=True):
        assert oracles.error(actual, wanted) <= 1e-5


def test_denormalize_rounds_once(rng):
    y, *others = draw(rng, np.float32, (5, FEATURES))
    y, *others = (place(value, jnp.bfloat16) for value in (y, *others))
    wide = [value.astype(jnp.float32) for value in (y, *others)]
    narrow = jax.jit(jaxnorm.denormalize)(y, *others)
    expected = jax.jit(jaxnorm.denormalize)(*wide)
    assert narrow.dtype == jnp.bfloat16
    unit = 0.501 * 2.0**-7 * np.abs(oracles.wide(expected)) + 1e-6
    assert np.all(np.abs(oracles.wide(narrow) - oracles.wide(expected)) <= unit)


BAD = {
    "integers": ({"y": jnp.ones((2, 3), jnp.int32)}, ("y", "int32", "astype")),
    "a mean of other features": ({"mean": jnp.ones(4)}, ("mean", "(3,)", "(4,)")),
    "a complex variance": ({"var": jnp.ones(3, jnp.complex64)}, ("var", "real")),
    "a scale of other features": ({"scale": jnp.ones(4)}, ("scale", "(3,)", "(4,)")),
    "a negative epsilon": ({"epsilon": -1.0}, ("epsilon", "-1.0")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_of_denormalize(case, as_users_run_it):
    bad, says = BAD[case]
    good = {"y": jnp.ones((2, 3)), "mean": jnp.zeros(3), "var": jnp.ones(3)}
    with refused(*says):
        functools.partial(jaxnorm.denormalize, **good | bad)()


@pytest.mark.parametrize("function", [jaxnorm.normalize, jaxnorm.denormalize])
def test_no_imaginary_part_of_a_mean_is_dropped(function, as_users_run_it):
    mean, var = jnp.full(3, 1 + 2j), jnp.ones(3)
    with refused("mean", "real", "complex64", "float32", "would lose"):
        function(jnp.ones((2, 3)), mean, var)
    result = function(jnp.ones((2, 3)), mean, var, bias=jnp.ones(3, jnp.complex64))
    assert np.all(np.imag(result) != 0)
