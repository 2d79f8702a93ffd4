"""Streams through causal group norm, in modules of the three frameworks."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support.drawing import draw, place

import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx


def by_function(params):
    return lambda *args, **kwargs: jaxnorm.causal_group_norm(
        *args, **params, num_groups=2, **kwargs
    )


def by_linen(params):
    module = jaxnorm.linen.CausalGroupNorm(num_groups=2)
    return lambda *args, **kwargs: module.apply({"params": params}, *args, **kwargs)


def by_nnx(params):
    module = jaxnorm.nnx.CausalGroupNorm(4, num_groups=2, rngs=nnx.Rngs(0))
    for name, value in params.items():
        getattr(module, name).set_value(value)
    return module


def by_equinox(params):
    module = jaxnorm.equinox.CausalGroupNorm(4, num_groups=2)
    return eqx.tree_at(lambda m: m.params, module, params)


@pytest.mark.parametrize("build", [by_linen, by_nnx, by_equinox])
def test_chunks_are_the_whole(build, rng):
    """And gradients of the parameters are those of the function."""
    x, weight = draw(rng, (2, 5, 4), loc=3), draw(rng, (2, 5, 4))
    params = {"scale": place(rng.uniform(0.5, 2, 4)), "bias": draw(rng, 4)}
    mask = jax.device_put(rng.uniform(size=x.shape) < 0.8)

    def step(build, *bounds):
        def loss(params):
            norm, moments, ys = build(params), None, []
            for start, stop in itertools.pairwise(bounds):
                part = slice(start, stop)
                y, moments = norm(x[:, part], moments, mask=mask[:, part])
                ys.append(y)
            return jnp.sum(weight * jnp.concatenate(ys, 1) ** 2), moments

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)

    actual, expected = step(build, 0, 2, 5), step(by_function, 0, 5)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for value, wanted in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert np.shape(value) == np.shape(wanted)
        assert oracles.error(value, wanted) <= 2e-6
