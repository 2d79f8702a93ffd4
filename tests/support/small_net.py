"""A small model whose statistics are collected, and data for it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import jaxnorm.linen
from support.drawing import place


class Net(nn.Module):
    """Three batch norms in a row: on the input, and after two layers."""

    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train, mask=None):
        def norm(x):
            module = jaxnorm.linen.BatchNorm(
                use_running_average=not train, axis_name=self.axis_name
            )
            rank = None if mask is None else mask.reshape(-1, *(1,) * (x.ndim - 1))
            return module(x, mask=rank)

        x = norm(x)
        x = nn.relu(norm(nn.Conv(4, (3, 3), padding="VALID")(x)))
        x = norm(nn.Dense(5)(x.mean((1, 2))))
        return nn.Dense(2)(jnp.tanh(x))


NET = Net()


@functools.cache
def make_images():
    rng = np.random.default_rng(0)
    return place(rng.normal(2, 3, size=(24, 6, 6, 2)))


@functools.cache
def make_variables():
    init = jax.jit(NET.init, static_argnames="train")
    return init(jax.random.key(0), make_images(), train=False)


@functools.cache
def collect(train):
    """Collects moments of a batch: `collect(train)(variables, images, mask)`."""

    @jax.jit
    def apply(variables, images, mask=None):
        return NET.apply(variables, images, train, mask, mutable=["batch_moments"])[1][
            "batch_moments"
        ]

    return apply
