"""Modules that normalize segments, beyond what all modules have in common."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from flax import nnx
from support.drawing import draw
from support.refusals import refused

import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx

IDS, NUMBER = jnp.array([0, 0, 2, 2, 2, -1]), 3


def calls(x, **options):
    """A call of graph norm in each framework, compiled, and its parameters' names."""
    linen = jaxnorm.linen.GraphNorm(**options)
    variables = jax.jit(linen.init, static_argnums=3)(jax.random.key(0), x, IDS, NUMBER)
    of_linen = jax.jit(linen.apply, static_argnums=3)
    yield lambda *args: of_linen(variables, *args), set(variables["params"])
    module = jaxnorm.nnx.GraphNorm(x.shape[-1], rngs=nnx.Rngs(0), **options)
    names = {path[-1] for path, _ in nnx.to_flat_state(nnx.state(module, nnx.Param))}
    of_nnx = nnx.jit(lambda m, *args: m(*args), static_argnums=3)
    yield lambda *args: of_nnx(module, *args), names
    module = jaxnorm.equinox.GraphNorm(x.shape[-1], **options)
    names = {name for name, value in module.params.items() if value is not None}
    yield eqx.filter_jit(module), names


@pytest.mark.parametrize("use_mean_scale", [True, False])
def test_instance_norm_is_without_a_mean_scale(use_mean_scale, rng):
    x = draw(rng, (6, 3), loc=2)
    share = np.full(3, 0.5 if use_mean_scale else 1.0)
    expected = np.zeros(x.shape)
    for node in (slice(0, 2), slice(2, 5)):
        left = oracles.wide(x)[node]
        left = left - share * left.mean(0)
        expected[node] = left / np.sqrt((left**2).mean(0) + 1e-6)
    own = {"mean_scale"} if use_mean_scale else set()
    half = jax.nn.initializers.constant(0.5)
    options = {"use_mean_scale": use_mean_scale, "mean_scale_init": half}
    for call, names in calls(x, **options):
        assert names == {"scale", "bias"} | own
        assert oracles.error(call(x, IDS, NUMBER), expected) <= 1e-5


def test_a_traced_number_of_segments(rng):
    norm = jaxnorm.linen.GraphNorm()
    init = jax.jit(norm.init)
    with refused("num_segments", "static_argnames"):
        init(jax.random.key(0), draw(rng, (6, 3)), IDS, NUMBER)
