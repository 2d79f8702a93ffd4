"""Running statistics in `nnx.scan`, over time and over layers."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support.drawing import draw
from support.family import close
from support.nnx_modules import TABLE, TRAINED, build, call, values
from support.tiers import matrix

TIME, SHAPE = 3, (4, 6, 4)
each_norm = pytest.mark.parametrize(
    "name",
    matrix(
        (n for n in TRAINED if TABLE[n].function), often=("BatchNorm", "BatchRenorm")
    ),
)


@each_norm
def test_over_time(name, rng):
    """One layer as the carry: as a loop over the steps."""
    xs = draw(rng, (TIME, *SHAPE), loc=1, std=2)

    @nnx.jit
    @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=(nnx.Carry, 0))
    def scan(norm, x):
        y = call(name, norm, x)
        return norm, y

    norm, ys = scan(build(name), xs)
    alone, step = build(name), nnx.jit(lambda norm, x: call(name, norm, x))
    close(ys, jnp.stack([step(alone, x) for x in xs]), 2e-5)
    close(values(norm), values(alone), 2e-5)


@each_norm
def test_over_layers(name, rng):
    """Each has statistics of its own: as a loop over the layers."""
    x = draw(rng, SHAPE, loc=1, std=2)
    layers = nnx.vmap(lambda _: build(name), axis_size=TIME, in_axes=None)(None)

    @nnx.jit
    @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry)
    def scan(norm, x):
        return call(name, norm, x)

    y = scan(layers, x)
    step = nnx.jit(lambda norm, x: call(name, norm, x))
    for layer in range(TIME):
        alone = build(name)
        x = step(alone, x)
        moved = jax.tree.map(lambda leaf, i=layer: leaf[i], values(layers))
        close(moved, values(alone), 2e-5)
    close(y, x, 2e-5)
