"""Running statistics in `nn.scan`, over time and over layers."""

import jax
import pytest
from flax import linen as nn
from support.drawing import draw
from support.family import close
from support.family_modules import TABLE
from support.tiers import matrix

KEY = jax.random.key(0)
TIME, SHAPE = 3, (4, 6, 4)
CARRIED = [n for n in TABLE if TABLE[n].function and TABLE[n].counts]


class OverTime(nn.Module):
    """One layer at each time step: its statistics move on."""

    norm: nn.Module
    extra: tuple

    @nn.compact
    def __call__(self, xs):
        def step(norm, carry, x):
            return carry, norm(x, *self.extra)

        if self.is_initializing():  # a scan carries what is there before it
            self.norm(xs[0], *self.extra)
        scan = nn.scan(
            step,
            variable_carry="batch_stats",
            variable_broadcast="params",
            split_rngs={"params": False},
        )
        return scan(self.norm, (), xs)[1]


class OverLayers(nn.Module):
    """One layer after the other, each with statistics of its own."""

    norm: nn.Module
    extra: tuple

    @nn.compact
    def __call__(self, x):
        def layer(norm, x, _):
            return norm(x, *self.extra), None

        scan = nn.scan(
            layer,
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=TIME,
        )
        return scan(self.norm, x, None)[0]


each_norm = pytest.mark.parametrize(
    "name", matrix(CARRIED, often=("BatchNorm", "BatchRenorm"))
)


@each_norm
def test_scan_over_time_equals_a_loop(name, rng):
    """As a loop over the steps."""
    entry, xs = TABLE[name], draw(rng, (TIME, *SHAPE), loc=1, std=2)
    model = OverTime(entry.build(True), entry.beside(xs))
    variables = jax.jit(model.init)(KEY, xs)
    ys, new = jax.jit(lambda v, xs: model.apply(v, xs, mutable="batch_stats"))(
        variables, xs
    )
    alone = {kind: value["norm"] for kind, value in variables.items()}
    step = jax.jit(lambda v, x: entry.apply(model.norm, v, x, mutable="batch_stats"))
    for x, y in zip(xs, ys, strict=True):
        expected, updates = step(alone, x)
        close(y, expected, 2e-5)
        alone |= updates
    close(new["batch_stats"]["norm"], alone["batch_stats"], 2e-5)


@each_norm
def test_scan_over_layers_equals_a_loop(name, rng):
    """As a loop over the layers."""
    entry, x = TABLE[name], draw(rng, SHAPE, loc=1, std=2)
    model = OverLayers(entry.build(True), entry.beside(x))
    variables = jax.jit(model.init)(KEY, x)
    y, new = jax.jit(lambda v, x: model.apply(v, x, mutable="batch_stats"))(
        variables, x
    )
    step = jax.jit(lambda v, x: entry.apply(model.norm, v, x, mutable="batch_stats"))
    for layer in range(TIME):
        own = {
            kind: jax.tree.map(lambda leaf, i=layer: leaf[i], value["norm"])
            for kind, value in variables.items()
        }
        x, updates = step(own, x)
        moved = jax.tree.map(lambda leaf, i=layer: leaf[i], new["batch_stats"]["norm"])
        close(moved, updates["batch_stats"], 2e-5)
    close(y, x, 2e-5)
