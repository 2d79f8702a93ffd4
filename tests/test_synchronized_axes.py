"""Synchronization over several axes, over groups, and beside sharded features."""

import itertools

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.drawing import place
from support.modes import (
    AXIS,
    SHAPE,
    check,
    differentiate,
    draw_problem,
    forward_pass,
    join,
    mesh_of,
    shard_map_inside,
    shard_map_outside,
    split,
    split_all,
)
from support.tiers import matrix

import jaxnorm

BUILD = (shard_map_inside, shard_map_outside)
DATA = (P(("a", "b")), P("a"))


@pytest.mark.parametrize(
    ("build", "data", "check_vma", "fast"),
    matrix(
        itertools.product(BUILD, DATA, (True, False), (True, False)),
        often=[
            (shard_map_inside, DATA[0], True, True),
            (shard_map_inside, DATA[1], False, False),
            (shard_map_outside, DATA[0], True, False),
            (shard_map_outside, DATA[1], True, True),
            (shard_map_outside, DATA[0], False, True),
        ],
    ),
)
def test_tuple_of_axes(build, data, check_vma, fast, rng):
    """Also where x does not vary over one of them."""
    problem = draw_problem(rng)
    run = build(
        forward_pass(axis_name=("a", "b"), use_fast_variance=fast),
        check_vma,
        mesh=mesh_of(AxisType.Auto, (4, 2), ("a", "b")),
        axis_name=data[0],
        data=data,
    )
    check(run(*problem), problem)


@pytest.mark.parametrize("masked", [True, False])
def test_an_axis_that_x_does_not_vary_over_counts_once(masked, rng):
    """Which the types say, so that the factor W / (W - 1) comes out right."""
    problem = draw_problem(rng, "bool" if masked else "full")
    normalize = forward_pass(axis_name=("a", "b"), unbiased=True)

    def forward(x, mask, *others):
        return normalize(x, mask if masked else None, *others)

    run = shard_map_inside(
        forward,
        mesh=mesh_of(AxisType.Auto, (4, 2), ("a", "b")),
        data=P("a"),
    )
    check(run(*problem), problem, unbiased=True)


def test_tuple_of_axes_under_vmap(rng):
    x, mask, weight, stats, *affine = problem = draw_problem(rng)
    step = differentiate(forward_pass(axis_name=("a", "b")))
    for name in ("a", "b"):
        step = jax.vmap(step, in_axes=(0, 0, 0, None, None, None), axis_name=name)
    data = (np.asarray(a).reshape(4, 2, -1, *SHAPE[1:]) for a in (x, mask, weight))
    results = jax.jit(step)(*data, stats, *affine)
    y, new, dx, *rest = jax.device_get(results)
    new = jax.tree.map(lambda leaf: leaf[0, 0], new)
    rest = (d.sum((0, 1)) for d in rest)
    check((y.reshape(SHAPE), new, dx.reshape(SHAPE), *rest), problem)


GROUPS = ((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 7), (3, 5), (1, 2), (4, 6))


@pytest.mark.parametrize(
    ("mode", "groups"),
    matrix(
        itertools.product(("pmap", "unchecked"), GROUPS),
        often=[("pmap", GROUPS[1]), ("unchecked", GROUPS[0])],
    ),
)
def test_groups_of_devices(mode, groups, rng):
    x, mask, weight, stats, *affine = draw_problem(rng)
    step = differentiate(
        forward_pass(axis_name=AXIS, axis_index_groups=[list(g) for g in groups])
    )
    if mode == "pmap":
        step = jax.pmap(step, axis_name=AXIS, in_axes=(0, 0, 0, None, None, None))
        results = step(*split_all(x, mask, weight), stats, *affine)
    else:

        def local(*arguments):
            rows = (arguments[0][0], arguments[1][0], arguments[2][0])
            return jax.tree.map(lambda r: r[None], step(*rows, *arguments[3:]))

        results = jax.jit(
            jax.shard_map(
                local,
                mesh=mesh_of(AxisType.Auto),
                in_specs=(P(AXIS),) * 3 + (P(),) * 3,
                out_specs=P(AXIS),
                check_vma=False,
            )
        )(*split_all(x, mask, weight), stats, *affine)
    y, new, dx, *rest = jax.tree.map(np.asarray, results)
    for group in map(list, groups):
        part = [join(split(np.asarray(a))[group]) for a in (x, mask, weight)]
        for leaf in new:
            np.testing.assert_array_equal(leaf[group], leaf[group[:1] * len(group)])
        actual = (
            join(y[group]),
            jaxnorm.BatchStats(*(leaf[group[0]] for leaf in new)),
            join(dx[group]),
            *(d[group].sum(0) for d in rest),
        )
        check(actual, (*part, stats, *affine))


@pytest.mark.parametrize(
    ("axis_type", "fast", "masked"),
    matrix(
        itertools.product(
            (AxisType.Auto, AxisType.Explicit), (True, False), (True, False)
        ),
        often=[
            (AxisType.Auto, True, True),
            (AxisType.Explicit, True, False),
            (AxisType.Explicit, False, True),
        ],
    ),
)
def test_sharded_features(axis_type, fast, masked, rng):
    """Rows over one axis of the mesh, features and their statistics over another."""
    x, mask, *others = draw_problem(rng, "bool" if masked else "full")
    problem = (x, mask if masked else None, *others)
    problem = jax.tree.map(lambda a: np.asarray(a)[..., :4], problem)
    mesh = mesh_of(axis_type, (4, 2), ("a", "b"))
    specs = (P("a", None, "b"),) * 3 + (P("b"),) * 3
    placed = tuple(
        jax.device_put(argument, NamedSharding(mesh, spec))
        for argument, spec in zip(problem, specs, strict=True)
    )
    step = jax.jit(differentiate(forward_pass(use_fast_variance=fast)))
    with jax.set_mesh(mesh):
        check(step(*placed), problem)


def test_one_example_at_a_time_under_vmap(rng):
    x, _, weight, stats, *affine = draw_problem(rng, "full")
    x, weight = (place(np.asarray(a)[:, 0]) for a in (x, weight))
    mask = jax.device_put(np.arange(len(x)) % 3 > 0)
    step = jax.vmap(
        forward_pass(axis_name=AXIS),
        in_axes=(0, 0, None, None, None),
        out_axes=(0, None),
        axis_name=AXIS,
    )
    actual = jax.jit(differentiate(step))(x, mask, weight, stats, *affine)
    check(actual, (x, np.asarray(mask)[:, None], weight, stats, *affine))


@pytest.mark.parametrize(
    ("data", "masked"),
    matrix(
        itertools.product(
            (P("batch"), P("batch", None, "model")), (P(), P("batch"), P("model"))
        ),
        often=[
            (P("batch"), P()),
            (P("batch", None, "model"), P("batch")),
            (P("batch"), P("model")),
        ],
    ),
)
def test_a_mask_sharded_otherwise_on_an_explicit_mesh(data, masked, rng):
    x, mask, weight, stats, *affine = draw_problem(rng)
    pad = ((0, 0), (0, 0), (0, 1))  # an even number of features
    x, weight, mask = (jax.device_put(np.pad(a, pad)) for a in (x, weight, mask))
    shared = jax.tree.map(lambda a: place(np.pad(a, (0, 1))), (stats, *affine))
    mesh = mesh_of(AxisType.Explicit, (4, 2), ("batch", "model"))
    features = P(*data[2:])

    def put(tree, spec):
        return jax.device_put(tree, NamedSharding(mesh, spec))

    with jax.set_mesh(mesh):
        step = jax.jit(differentiate(forward_pass()))
        arrays = put(x, data), put(mask, masked), put(weight, data)
        actual = step(*arrays, *put(shared, features))
    check(jax.device_get(actual), (x, mask, weight, *shared))
