"""The collection `batch_moments` of the modules with running statistics."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import family
from support.drawing import place
from support.family_entries import program
from support.family_modules import TABLE, draw_variables
from support.tiers import matrix

import jaxnorm
from jaxnorm.linen.module import BatchModule

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


@pytest.mark.parametrize(
    "name",
    matrix(
        COLLECTING,
        often=("BatchNorm", "BatchRenorm", "DomainBatchNorm", "InstanceBatchNorm"),
    ),
)
def test_exact_and_merged(name, rng):
    """In training; in inference it is the same program."""
    entry = COLLECTING[name]
    x = rng.normal(1e3, 2, size=family.SHAPE)
    x[-1] = np.nan
    x = place(x)
    mask = np.arange(len(x)).reshape(-1, *(1,) * (x.ndim - 1)) < len(x) - 2
    variables = draw_variables(name, x)

    def collect(variables, x, mask, train=True):
        mutable = ["batch_moments"]
        _, new = entry.apply(
            entry.build(train), variables, x, mask, train, mutable=mutable
        )
        assert set(new) == {"batch_moments"}  # the running statistics stay
        return new

    @jax.jit
    def at_once_and_merged(variables, x, mask):
        merged, half = variables, len(x) // 2
        for part in (slice(None, half), slice(half, None)):
            merged = {**variables, **collect(merged, x[part], mask[part])}
        return collect(variables, x, mask), merged

    (index,) = entry.beside(x) or (None,)
    features = slice(getattr(entry.build(True), "instance_features", 0), None)
    for collected in at_once_and_merged(variables, x, mask):
        own = collected["batch_moments"]["batch_moments"]
        check(own, moments_of(x, mask, features), index)
    programs = (
        program(functools.partial(collect, train=train), variables, x, mask)
        for train in (True, False)
    )
    assert len(set(programs)) == 1


@pytest.mark.parametrize(
    "name", matrix(COLLECTING, often=("BatchNorm", "GhostBatchNorm", "SwitchableNorm"))
)
def test_output_and_statistics_do_not_depend_on_it(name):
    """They are of the same program."""
    entry = COLLECTING[name]
    x = jnp.zeros(family.SHAPE)
    init = functools.partial(entry.init, entry.build(True), KEY)
    assert "batch_moments" not in jax.eval_shape(init, x)

    def apply(variables, x, collections):
        y, new = entry.apply(entry.build(True), variables, x, mutable=collections)
        return y, new["batch_stats"]

    programs = (
        program(
            functools.partial(apply, collections=["batch_stats", *more]),
            draw_variables(name, x),
            x,
        )
        for more in ([], ["batch_moments"])
    )
    assert len(set(programs)) == 1


@pytest.mark.parametrize(
    "name", matrix(COLLECTING, often=("EvoNormB0", "RecurrentBatchNorm"))
)
def test_within_an_nnx_model(name, rng):
    """It joins the collections: the statistics, of the same names, stay."""
    entry = COLLECTING[name]
    x = place(rng.normal(size=family.SHAPE))
    linen = entry.build(False)

    @jax.jit
    def collect_twice(x):
        model = nnx.bridge.ToNNX(linen, rngs=nnx.Rngs(0))
        model.lazy_init(x, *entry.beside(x))
        before = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        for _ in range(2):
            model(x, *entry.beside(x), mutable=["batch_moments"])
        after = nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
        own = {key: variable[...] for key, variable in model.batch_moments.items()}
        variables = entry.init(linen, KEY, x)
        for _ in range(2):
            _, new = entry.apply(linen, variables, x, mutable=["batch_moments"])
            variables |= new
        return before, after, own, variables["batch_moments"]["batch_moments"]

    before, after, own, expected = collect_twice(x)
    chex.assert_trees_all_equal(after, before)
    chex.assert_trees_all_close(own, expected, rtol=1e-6)


def test_over_devices(rng):
    module = jaxnorm.linen.BatchNorm(use_running_average=False, axis_name="device")
    x = np.asarray(rng.normal(5, 2, size=(8, 3, 4)), np.float32)
    mask = rng.uniform(size=(8, 3, 1)) < 0.6
    mask[2] = False
    variables = jax.jit(module.init)(KEY, x[0])
    collected = jax.pmap(
        lambda x, mask: module.apply(
            variables, x, mask=mask, mutable=["batch_moments"]
        )[1]["batch_moments"]["batch_moments"],
        axis_name="device",
    )(x, mask)
    for replica in range(8):
        one = jax.tree.map(lambda leaf, i=replica: np.asarray(leaf)[i], collected)
        check(one, moments_of(x, mask))


def test_gradients_flow_through_them(rng):
    module = jaxnorm.linen.BatchNorm(use_running_average=True)
    x = place(rng.normal(size=(6, 2)))
    variables = jax.jit(module.init)(KEY, x)

    def var(x):
        _, new = module.apply(variables, x, mutable=["batch_moments"])
        return jnp.sum(new["batch_moments"]["batch_moments"]["var"])

    wide = np.asarray(x, np.float64)
    expected = 2 * (wide - wide.mean(0)) / len(wide)
    np.testing.assert_allclose(jax.jit(jax.grad(var))(x), expected, atol=1e-6)
