"""Causal group norm in parts: the same as all at once, over devices too."""

import functools
import itertools

import jax
import jax.numpy as jnp
import oracles
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.causal import KEPT, OPTIONS, SHAPE, draw_mask, of_all
from support.drawing import draw, place
from support.jitted import jitted
from support.modes import AXIS, mesh_of
from support.tiers import matrix

import jaxnorm

norm = jaxnorm.causal_group_norm


def in_chunks(x, mask, moments=None):
    ys = []
    for start, stop in ((0, 2), (2, 6)):
        part = mask if mask is None else mask[:, start:stop]
        y, moments = of_all(x[:, start:stop], part, moments)
        ys.append(y)
    return jnp.concatenate(ys, 1), moments


def one_by_one(x, mask):
    """As in a loop over a stream, whose carry starts with nothing."""

    def step(moments, inputs):
        x, mask = inputs
        return of_all(x, mask, moments)[::-1]

    moments = jaxnorm.init_running_moments(KEPT, x.dtype)
    steps = jax.tree.map(lambda v: jnp.moveaxis(v, 1, 0)[:, :, None], (x, mask))
    moments, ys = jax.lax.scan(step, moments, steps)
    return jnp.moveaxis(ys[:, :, 0], 0, 1), moments


WAYS = {"chunks": in_chunks, "steps": one_by_one}


@functools.cache
def derivatives(way):
    """Values, and derivatives of them along a direction: first and second."""

    def loss(x, mask, weight):
        y, moments = way(x, mask)
        loss = jnp.sum(weight * y**2) + jnp.sum(jnp.sin(moments.mean + moments.var))
        return loss, (y, moments)

    @jax.jit
    def run(x, mask, weight, direction):
        def gradient(x):
            return jax.grad(loss, has_aux=True)(x, mask, weight)

        (first, (y, moments)), (second, forward) = jax.jvp(gradient, (x,), (direction,))
        both = zip(moments[:3], moments[3:], strict=True)
        return first, second, forward[0], y, *(value + rest for value, rest in both)

    return run


# Steps of a loop are chunks of one; values of such a loop are below.
@pytest.mark.parametrize(
    ("way", "mask"),
    matrix(itertools.product(WAYS, ("weights", None)), often=[("chunks", "weights")]),
)
def test_parts_are_the_whole(way, mask, rng):
    """Values, gradient, forward mode, and the Hessian along a direction."""
    x, weight, direction = (draw(rng, SHAPE, loc=loc) for loc in (3, 0, 0))
    mask = draw_mask(rng, mask)
    if mask is not None:
        mask = mask.astype(jnp.float32)
    arguments = x, mask, weight, direction
    expected = derivatives(of_all)(*arguments)
    actual = derivatives(WAYS[way])(*arguments)
    for value, wanted in zip(actual, expected, strict=True):
        assert oracles.error(value, wanted) <= 1e-6
    reference = oracles.causal_group_norm(x, mask=mask, **OPTIONS)
    assert oracles.error(actual[3], reference) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_parts_are_the_whole_in_float64(way, rng, x64):
    """Where rounding hides nothing; in float32 above."""
    drawn = (draw(rng, SHAPE, jnp.float64, loc=loc) for loc in (3, 0, 0))
    x, weight, direction = drawn
    arguments = x, draw_mask(rng, "weights"), weight, direction
    expected = derivatives(of_all)(*arguments)
    actual = derivatives(WAYS[way])(*arguments)
    for value, wanted in zip(actual, expected, strict=True):
        assert oracles.error(value, wanted) <= 1e-13


def test_a_stream_goes_on_beyond_what_float32_counts(rng):
    """Steps of one element each, after 2**24 of them: none is lost."""
    start = jaxnorm.init_running_moments((1, 1))
    level = jnp.full((1, 1), 1e4)
    start = start._replace(count=jnp.full((1, 1), 2.0**24), mean=level)
    x = place(rng.normal(1e4, 1, (1, 100, 1)))
    _, whole = jitted(norm)(x, start)
    _, by_step = jax.jit(
        lambda x, start: jax.lax.scan(
            lambda moments, x: norm(x[None], moments)[::-1], start, x[0, :, None]
        )[::-1]
    )(x, start)
    values = oracles.wide(x) - 1e4
    for moments in whole, by_step:
        count, mean, var = (
            float(value.item()) + float(rest.item())
            for value, rest in zip(moments[:3], moments[3:], strict=True)
        )
        assert count == 2**24 + 100
        moved = values.sum() / count
        assert abs(mean - 1e4 - moved) <= 1e-5 * abs(moved)
        added = 2**24 + (values**2).sum() - count * moved**2
        assert abs(var - added / count) <= 1e-11


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_carry_keeps_its_dtypes(dtype, rng):
    """That of a scan in the dtype of the moments, whatever x has."""
    x = draw(rng, (6, 2, 1, 3, 4), jnp.bfloat16)
    start = jaxnorm.init_running_moments(KEPT, dtype)

    def step(moments, x):
        return norm(x, moments, **OPTIONS)[::-1]

    end, y = jax.jit(functools.partial(jax.lax.scan, step))(start, x)
    assert y.dtype == jnp.bfloat16
    assert all(leaf.dtype == dtype for leaf in end)


def on_devices(mode, run, x, moments):
    """A step over the space of x, divided over eight devices; moments are shared."""
    kind = AxisType.Explicit if "Explicit" in mode else AxisType.Auto
    mesh, data = mesh_of(kind), P(None, None, AXIS)
    if mode.startswith("jit"):
        spec = P(None, AXIS) if "time" in mode else data
        x = jax.device_put(x, NamedSharding(mesh, spec))
        moments = jax.device_put(moments, NamedSharding(mesh, P()))
        with jax.set_mesh(mesh):
            return jax.jit(functools.partial(run, axis_name=None))(x, moments)
    mapped = jax.shard_map(
        functools.partial(run, axis_name=AXIS),
        mesh=mesh,
        in_specs=(data, P()),
        out_specs=(data, P(), (data, P())),
        check_vma=mode == "checked",
    )
    return jax.jit(mapped)(x, moments)


# One that maps and one that knows shardings by type; the slow tier has all.
FEW = "checked", "jit, Explicit, time"
MODES = *FEW, "unchecked", "jit, Explicit", "jit, time"


@pytest.mark.parametrize(
    "mode",
    [m if m in FEW else pytest.param(m, marks=pytest.mark.slow) for m in MODES],
)
def test_a_stream_over_devices(mode, rng):
    """y, the new moments, and derivatives along directions in both arguments."""
    x = draw(rng, (2, 8, 16, 4), loc=3)
    _, moments = jitted(of_all)(draw(rng, SHAPE), None)
    dmoments = jax.tree.map(jnp.zeros_like, moments)
    dmoments = dmoments._replace(mean=draw(rng, KEPT), var=draw(rng, KEPT))

    def run(x, moments, axis_name):
        def call(x, moments):
            return norm(x, moments, axis_name=axis_name, **OPTIONS)

        (y, new), tangents = jax.jvp(call, (x, moments), (jnp.sin(x), dmoments))
        return y, new, tangents

    expected = jax.jit(functools.partial(run, axis_name=None))(x, moments)
    actual = on_devices(mode, run, x, moments)
    for value, wanted in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert oracles.error(value, wanted) <= 1e-5
