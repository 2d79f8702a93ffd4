"""The collection `batch_moments` of the modules with running statistics."""

import family
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from family_modules import TABLE

import jaxnorm
from jaxnorm.linen.batch_module import BatchModule

KEY = jax.random.key(0)
COLLECTING = {
    name: entry
    for name, entry in TABLE.items()
    if isinstance(entry.build(True), BatchModule)
}


def moments_of(x, mask, features=slice(None)):
    """Count, mean and biased variance of the last axis, in float64."""
    x = np.asarray(x, np.float64)
    weights = np.broadcast_to(np.ones(()) if mask is None else mask, x.shape)
    x, weights = (a.reshape(-1, x.shape[-1])[:, features] for a in (x, weights))
    mean = np.average(np.where(weights > 0, x, 0), 0, weights)
    return {
        "count": weights.sum(0),
        "mean": mean,
        "var": np.average((np.where(weights > 0, x, mean) - mean) ** 2, 0, weights),
    }


def check(collected, expected, index=None):
    assert set(collected) == set(expected)
    for name, value in collected.items():
        if index is not None:
            others = np.delete(np.asarray(value), index, 0)
            np.testing.assert_array_equal(others, 0)
            value = value[index]
        np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("name", COLLECTING)
def test_exact_and_merged(name, train, rng):
    entry = COLLECTING[name]
    module = entry.build(train)
    x = jnp.asarray(rng.normal(1e3, 2, size=family.SHAPE), jnp.float32)
    mask = jnp.arange(len(x)).reshape(-1, *(1,) * (x.ndim - 1)) < len(x) - 2
    x = x.at[-1].set(jnp.nan)
    variables = module.init(KEY, x, *entry.extra)
    assert "batch_moments" not in variables

    def collect(variables, x, mask):
        mutable = ["batch_moments"]
        _, new = entry.apply(module, variables, x, mask, train, mutable=mutable)
        assert set(new) == {"batch_moments"}  # the running statistics stay
        return new

    first = collect(variables, x, mask)
    index = entry.extra[0] if entry.extra else None
    features = slice(getattr(module, "instance_features", 0), None)
    check(first["batch_moments"], moments_of(x, mask, features), index)

    half = len(x) // 2
    merged = variables
    for part in (slice(None, half), slice(half, None)):
        merged = {**variables, **collect(merged, x[part], mask[part])}
    check(merged["batch_moments"], moments_of(x, mask, features), index)


@pytest.mark.parametrize("name", COLLECTING)
def test_output_and_statistics_do_not_depend_on_it(name, rng):
    entry = COLLECTING[name]
    module = entry.build(True)
    x = jnp.asarray(rng.normal(size=family.SHAPE), jnp.float32)
    variables = module.init(KEY, x, *entry.extra)
    y, new = entry.apply(module, variables, x, mutable=["batch_stats"])
    both = ["batch_stats", "batch_moments"]
    y_too, new_too = entry.apply(module, variables, x, mutable=both)
    np.testing.assert_array_equal(y, y_too)
    assert jax.tree.all(
        jax.tree.map(np.array_equal, new["batch_stats"], new_too["batch_stats"])
    )


def test_over_devices(rng):
    module = jaxnorm.linen.BatchNorm(use_running_average=False, axis_name="device")
    x = jnp.asarray(rng.normal(5, 2, size=(8, 3, 4)), jnp.float32)
    mask = jnp.asarray(rng.uniform(size=(8, 3, 1)) < 0.6).at[2].set(False)
    variables = module.init(KEY, x[0])
    collected = jax.pmap(
        lambda x, mask: module.apply(
            variables, x, mask=mask, mutable=["batch_moments"]
        )[1]["batch_moments"],
        axis_name="device",
    )(x, mask)
    for replica in range(8):
        one = jax.tree.map(lambda leaf, i=replica: leaf[i], collected)
        check(one, moments_of(x, mask))


def test_gradients_flow_through_them(rng):
    module = jaxnorm.linen.BatchNorm(use_running_average=True)
    x = jnp.asarray(rng.normal(size=(6, 2)), jnp.float32)
    variables = module.init(KEY, x)

    def var(x):
        _, new = module.apply(variables, x, mutable=["batch_moments"])
        return jnp.sum(new["batch_moments"]["var"])

    np.testing.assert_allclose(
        jax.grad(var)(x), 2 * (x - x.mean(0, keepdims=True)) / len(x), atol=1e-6
    )
