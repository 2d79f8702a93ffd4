"""The ways to run one step on a batch that is divided over eight devices.

A step is made of any `forward(x, mask, state, *params) -> (y, new_state)`. The state
and the parameters are the same on all devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxnorm
from support.drawing import place
from support.tiers import matrix

DEVICES = 8
SHAPE = (4 * DEVICES, 3, 5)
AXIS = "batch"
ROWS, SAME = P(AXIS), P()
WHOLE = 2e-5  # relative error against the oracle on the whole batch


def mesh_of(kind, sizes=(DEVICES,), names=(AXIS,)):
    devices = jax.devices("cpu")[:DEVICES]
    return jax.make_mesh(sizes, names, (kind,) * len(sizes), devices=devices)


def forward_pass(**options):
    """Batch norm."""
    options = {"use_running_average": False, "momentum": 0.0} | options

    def forward(x, mask, stats, scale, bias):
        return jaxnorm.batch_norm(x, stats, scale, bias, mask=mask, **options)

    return forward


def differentiate(forward):
    """y, new state, gradients in x and each parameter of the sum of weight * y."""

    def step(x, mask, weight, state, *params):
        def loss(x, *params):
            y, new = forward(x, mask, state, *params)
            return jnp.sum(y * weight), (y, new)

        every = tuple(range(1 + len(params)))
        gradients, (y, new) = jax.grad(loss, every, has_aux=True)(x, *params)
        return y, new, *gradients

    return step


def split(array):
    return array.reshape(DEVICES, -1, *array.shape[1:])


def join(array):
    return array.reshape(-1, *array.shape[2:])


def split_all(*arrays):
    """By NumPy, since these are not traced."""
    return [split(np.asarray(array)) for array in arrays]


def over_rows(transform, forward):
    """pmap or vmap of the local gradients; those of shared parameters add up."""
    step = transform(differentiate(forward))

    def run(x, mask, weight, *shared):
        results = step(*split_all(x, mask, weight), *shared)
        y, new, dx, *rest = jax.device_get(results)
        for leaf in jax.tree.leaves(new):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
        new = jax.tree.map(lambda leaf: leaf[0], new)
        return join(y), new, join(dx), *(np.sum(d, 0) for d in rest)

    return run


def pmap(forward, params=2):
    rows = (0, 0, 0, None, *[None] * params)
    devices = jax.devices("cpu")[:DEVICES]
    return over_rows(
        lambda f: jax.pmap(f, axis_name=AXIS, in_axes=rows, devices=devices), forward
    )


def vmap_inside(forward, params=2):
    rows = (0, 0, 0, None, *[None] * params)
    return over_rows(
        lambda f: jax.jit(jax.vmap(f, in_axes=rows, axis_name=AXIS)), forward
    )


def vmap_outside(forward, params=2):
    rows = (0, 0, None, *[None] * params)
    mapped = jax.vmap(forward, in_axes=rows, out_axes=(0, None), axis_name=AXIS)

    def whole(x, mask, *shared):
        y, new = mapped(split(x), split(mask), *shared)
        return join(y), new

    return jax.jit(differentiate(whole))


def shard_map_inside(
    forward, check_vma=True, mesh=None, data=ROWS, stats=SAME, axis_name=AXIS, params=2
):
    def body(*arguments):
        y, new, dx, *rest = differentiate(forward)(*arguments)
        if not check_vma:  # else the types have added them up already
            rest = jax.lax.psum(rest, axis_name)
        return y, new, dx, *rest

    shared = (SAME,) * params
    return jax.jit(
        jax.shard_map(
            body,
            mesh=mesh or mesh_of(AxisType.Auto),
            in_specs=(data, data, data, stats, *shared),
            out_specs=(data, SAME, data, *shared),
            check_vma=check_vma,
        )
    )


def shard_map_outside(
    forward, check_vma=True, mesh=None, data=ROWS, stats=SAME, axis_name=AXIS, params=2
):
    del axis_name
    sharded = jax.shard_map(
        forward,
        mesh=mesh or mesh_of(AxisType.Auto),
        in_specs=(data, data, stats, *(SAME,) * params),
        out_specs=(data, SAME),
        check_vma=check_vma,
    )
    return jax.jit(differentiate(sharded))


def jit(forward, axis_type, params=2):
    del params
    mesh = mesh_of(axis_type)
    step = jax.jit(differentiate(forward))

    def run(x, mask, weight, *shared):
        data = jax.device_put((x, mask, weight), NamedSharding(mesh, P(AXIS)))
        shared = jax.device_put(shared, NamedSharding(mesh, P()))
        with jax.set_mesh(mesh):
            y, new, dx, *rest = step(*data, *shared)
        if axis_type == AxisType.Explicit:
            assert y.sharding.spec[0] == dx.sharding.spec[0] == AXIS
        return y, new, dx, *rest

    return run


unchecked = {"check_vma": False}
MODES = {
    "pmap": pmap,
    "vmap, grad inside": vmap_inside,
    "vmap, grad outside": vmap_outside,
    "shard_map, grad inside": shard_map_inside,
    "shard_map, grad outside": shard_map_outside,
    "unchecked, grad inside": functools.partial(shard_map_inside, **unchecked),
    "unchecked, grad outside": functools.partial(shard_map_outside, **unchecked),
    "jit, Auto": functools.partial(jit, axis_type=AxisType.Auto),
    "jit, Explicit": functools.partial(jit, axis_type=AxisType.Explicit),
}
all_modes = pytest.mark.parametrize("mode", MODES)
# For what the modes have been shown to agree on otherwise.
FEW = ("pmap", "shard_map, grad outside", "jit, Explicit")
few_modes = pytest.mark.parametrize("mode", matrix(MODES, often=FEW))


@functools.cache
def runner(mode, **options):
    options["axis_name"] = None if mode.startswith("jit") else AXIS
    return MODES[mode](forward_pass(**options))


def draw(rng, shape, loc=0.0, std=1.0):
    return place(rng.normal(loc, std, shape))


def draw_problem(rng, kind="bool", ratio=1.0):
    """x, mask, weight, statistics, scale, bias; the oracle sees the same numbers."""
    std = np.geomspace(0.3, 3, SHAPE[-1])
    mean = ratio * std * np.resize([1, -1], SHAPE[-1])
    stats = jaxnorm.BatchStats(place(mean + std / 2), place(std**2))
    share = np.repeat(np.linspace(0.2, 1, DEVICES), 4)  # unequal over the devices
    share[12:16] = 0  # nothing on the fourth
    drawn = rng.uniform(size=SHAPE)
    mask = drawn < (2 if kind == "full" else share[:, None, None])
    x = np.where(mask, rng.normal(mean, std, SHAPE), np.nan)
    weight = np.where(mask, rng.normal(size=SHAPE), 0)
    x, weight = place(x), place(weight)
    if kind == "weights":
        mask = np.where(mask, drawn + 0.1, 0).astype(np.float32)
    affine = draw(rng, SHAPE[-1], 1), draw(rng, SHAPE[-1])
    return x, jax.device_put(mask), weight, stats, *affine


def check(actual, problem, momentum=0.0, **options):
    x, mask, weight, stats, *affine = problem
    y, new, *gradients = actual
    options["momentum"] = momentum
    expected = (
        *oracles.batch_norm(x, *stats, *affine, mask=mask, **options),
        *oracles.batch_norm_gradients(weight, x, *stats, *affine, mask=mask),
    )
    actual = (y, new.mean, new.var, *gradients)
    names = ("y", "mean", "var", "dx", "dscale", "dbias")
    for name, value, wanted in zip(names, actual, expected, strict=True):
        assert oracles.error(value, wanted) <= WHOLE, name
