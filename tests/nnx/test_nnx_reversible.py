"""The way back of reversible instance norm, in modules of both APIs."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from flax import nnx
from support.drawing import draw, place

import jaxnorm.linen
import jaxnorm.nnx


def test_forecasts_and_their_gradients_are_those_of_the_function(rng):
    """Of the scale and the bias, which act on the way there and on the way back."""
    x, z = draw(rng, (4, 6, 3), loc=3), draw(rng, (4, 2, 3))
    params = {"scale": place(rng.uniform(0.5, 2, 3)), "bias": draw(rng, 3)}
    mask = jax.device_put(rng.uniform(size=x.shape) < 0.8)

    def loss(norm):
        y, undo = norm(x, mask=mask)
        return jnp.sum(jnp.sin(undo(z * y[:, -2:])))

    def of_function(params):
        def norm(x, mask):
            return jaxnorm.reversible_instance_norm(x, **params, mask=mask)

        return loss(norm)

    def of_linen(params):
        module = jaxnorm.linen.ReversibleInstanceNorm()
        return loss(lambda x, mask: module.apply({"params": params}, x, mask=mask))

    @nnx.jit
    def of_nnx(params):
        module = jaxnorm.nnx.ReversibleInstanceNorm(3, rngs=nnx.Rngs(0))
        for name, value in params.items():
            getattr(module, name).set_value(value)
        value, gradients = nnx.value_and_grad(loss)(module)
        return value, {name: getattr(gradients, name)[...] for name in params}

    expected = jax.jit(jax.value_and_grad(of_function))(params)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(expected))
    for actual in (jax.jit(jax.value_and_grad(of_linen))(params), of_nnx(params)):
        for value, wanted in zip(
            *map(jax.tree.leaves, (actual, expected)), strict=True
        ):
            assert oracles.error(value, wanted) <= 1e-6
