"""One batch over eight devices gives what one device gives on the whole batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxnorm

DEVICES = 8
SHAPE = (4 * DEVICES, 3, 5)
AXIS = "batch"
ROWS, SAME = P(AXIS), P()
WHOLE = 2e-5  # relative error against the oracle on the whole batch


def mesh_of(kind, sizes=(DEVICES,), names=(AXIS,)):
    devices = jax.devices("cpu")[:DEVICES]
    return jax.make_mesh(sizes, names, (kind,) * len(sizes), devices=devices)


def forward_pass(**options):
    options = {"use_running_average": False, "momentum": 0.0} | options

    def forward(x, mask, stats, scale, bias):
        return jaxnorm.batch_norm(x, stats, scale, bias, mask=mask, **options)

    return forward


def differentiate(forward):
    """y, new statistics, gradients in x, scale, bias of the sum of weight * y."""

    def step(x, mask, weight, *others):
        stats, *affine = others

        def loss(x, *affine):
            y, new = forward(x, mask, stats, *affine)
            return jnp.sum(y * weight), (y, new)

        gradients, (y, new) = jax.grad(loss, (0, 1, 2), has_aux=True)(x, *affine)
        return y, new, *gradients

    return step


def split(array):
    return array.reshape(DEVICES, -1, *array.shape[1:])


def join(array):
    return array.reshape(-1, *array.shape[2:])


# ---- the ways to run: from a forward pass to a step on the whole batch


def over_rows(transform, forward):
    """pmap or vmap of the local gradients; those of shared parameters add up."""
    step = transform(differentiate(forward))

    def run(x, mask, weight, *shared):
        y, new, dx, *rest = step(split(x), split(mask), split(weight), *shared)
        for leaf in jax.tree.leaves(new):
            np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
        new = jax.tree.map(lambda leaf: leaf[0], new)
        return join(y), new, join(dx), *(np.sum(d, 0) for d in rest)

    return run


def pmap(forward):
    rows = (0, 0, 0, None, None, None)
    devices = jax.devices("cpu")[:DEVICES]
    return over_rows(
        lambda f: jax.pmap(f, axis_name=AXIS, in_axes=rows, devices=devices), forward
    )


def vmap_inside(forward):
    rows = (0, 0, 0, None, None, None)
    return over_rows(
        lambda f: jax.jit(jax.vmap(f, in_axes=rows, axis_name=AXIS)), forward
    )


def vmap_outside(forward):
    rows = jax.vmap(
        forward, in_axes=(0, 0, None, None, None), out_axes=(0, None), axis_name=AXIS
    )

    def whole(x, mask, *shared):
        y, new = rows(split(x), split(mask), *shared)
        return join(y), new

    return jax.jit(differentiate(whole))


def shard_map_inside(
    forward, check_vma=True, mesh=None, data=ROWS, stats=SAME, axis_name=AXIS
):
    def body(*arguments):
        y, new, dx, *rest = differentiate(forward)(*arguments)
        if not check_vma:  # else the types have added them up already
            rest = jax.lax.psum(rest, axis_name)
        return y, new, dx, *rest

    return jax.jit(
        jax.shard_map(
            body,
            mesh=mesh or mesh_of(AxisType.Auto),
            in_specs=(data, data, data, stats, P(), P()),
            out_specs=(data, P(), data, P(), P()),
            check_vma=check_vma,
        )
    )


def shard_map_outside(
    forward, check_vma=True, mesh=None, data=ROWS, stats=SAME, axis_name=AXIS
):
    del axis_name
    sharded = jax.shard_map(
        forward,
        mesh=mesh or mesh_of(AxisType.Auto),
        in_specs=(data, data, stats, P(), P()),
        out_specs=(data, P()),
        check_vma=check_vma,
    )
    return jax.jit(differentiate(sharded))


def jit(forward, axis_type):
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


@functools.cache
def runner(mode, **options):
    options["axis_name"] = None if mode.startswith("jit") else AXIS
    return MODES[mode](forward_pass(**options))


def draw(rng, shape, loc=0.0, std=1.0):
    return jnp.asarray(rng.normal(loc, std, shape), jnp.float32)


def draw_problem(rng, kind="bool", ratio=1.0):
    """x, mask, weight, statistics, scale, bias; the oracle sees the same numbers."""
    std = np.geomspace(0.3, 3, SHAPE[-1])
    mean = ratio * std * np.resize([1, -1], SHAPE[-1])
    stats = jaxnorm.BatchStats(*jnp.asarray([mean + std / 2, std**2], jnp.float32))
    share = np.repeat(np.linspace(0.2, 1, DEVICES), 4)  # unequal over the devices
    share[12:16] = 0  # nothing on the fourth
    drawn = rng.uniform(size=SHAPE)
    mask = drawn < (2 if kind == "full" else share[:, None, None])
    x = np.where(mask, rng.normal(mean, std, SHAPE), np.nan)
    weight = np.where(mask, rng.normal(size=SHAPE), 0)
    x, weight = jnp.asarray(x, jnp.float32), jnp.asarray(weight, jnp.float32)
    if kind == "weights":
        mask = np.where(mask, drawn + 0.1, 0).astype(np.float32)
    affine = draw(rng, SHAPE[-1], 1), draw(rng, SHAPE[-1])
    return x, jnp.asarray(mask), weight, stats, *affine


def check(actual, problem, momentum=0.0, **options):
    x, mask, weight, stats, *affine = problem
    y, new, *gradients = actual
    options["momentum"] = momentum
    expected = (
        *oracle.batch_norm(x, *stats, *affine, mask=mask, **options),
        *oracle.batch_norm_gradients(weight, x, *stats, *affine, mask=mask),
    )
    actual = (y, new.mean, new.var, *gradients)
    names = ("y", "mean", "var", "dx", "dscale", "dbias")
    for name, value, wanted in zip(names, actual, expected, strict=True):
        assert oracle.error(value, wanted) <= WHOLE, name


# ---- every mode


@pytest.mark.parametrize("fast", [True, False])
@all_modes
def test_unequal_masks_and_an_empty_device(mode, fast, rng):
    problem = draw_problem(rng)
    check(runner(mode, use_fast_variance=fast)(*problem), problem)


@all_modes
def test_weights(mode, rng):
    problem = draw_problem(rng, "weights")
    check(runner(mode, use_fast_variance=True)(*problem), problem)


@pytest.mark.parametrize("running", ["warm", "cold"])
@all_modes
def test_accuracy(mode, running, rng):
    run = runner(mode, use_fast_variance=running == "warm")
    for ratio in (0, 1, 10, 1e2, 1e3, 1e4):
        x, mask, weight, stats, *_ = draw_problem(rng, "full", ratio)
        if running == "cold":
            stats = jaxnorm.init_batch_stats(SHAPE[-1:])
        affine = jnp.ones(SHAPE[-1]), jnp.zeros(SHAPE[-1])
        y, new, *gradients = run(x, mask, weight, stats, *affine)
        check((y, new, *gradients), (x, mask, weight, stats, *affine))
        expected, _, var = oracle.batch_norm(x, *stats, momentum=0)
        assert np.max(np.abs(y - expected)) <= 1e-5, ratio
        assert np.max(np.abs(new.var / var - 1)) <= 1e-5, ratio


@all_modes
def test_options_of_the_statistics(mode, rng):
    """Counted, unbiased and guarded statistics leave every mode as well."""
    run = runner(mode, unbiased=True, skip_nonfinite=True, momentum=lambda count: 0.0)
    x, mask, weight, stats, *affine = problem = draw_problem(rng)
    stats = jaxnorm.CountedBatchStats(*stats, jnp.float32(4))
    actual = run(x, mask, weight, stats, *affine)
    check(actual, problem, unbiased=True)
    assert actual[1].count == 5
    _, new, *_ = run(x.at[0, 0, 0].set(jnp.inf), mask | True, weight, stats, *affine)
    for old, kept in zip(stats, new, strict=True):  # as averaged over the devices
        np.testing.assert_allclose(kept, old, rtol=3e-7)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("mode", ["pmap", "vmap", "shard_map", "unchecked"])
def test_moments(mode, fast, rng):
    x, mask, *_ = draw_problem(rng)

    def moments(x, mask):
        return jaxnorm.batch_moments(
            x, mask=mask, axis_name=AXIS, use_fast_variance=fast
        )

    if mode in ("pmap", "vmap"):
        rows = jax.pmap if mode == "pmap" else jax.vmap
        every = rows(moments, axis_name=AXIS)(split(x), split(mask))
        actual = [np.asarray(leaf)[3] for leaf in every]  # that of the empty device
    else:
        actual = jax.shard_map(
            moments,
            mesh=mesh_of(AxisType.Auto),
            in_specs=ROWS,
            out_specs=SAME,
            check_vma=mode == "shard_map",
        )(x, mask)
    for value, wanted in zip(actual, oracle.moments(x, mask=mask), strict=True):
        assert oracle.error(value, wanted) <= WHOLE


# ---- statistics that drifted apart


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("mode", ["pmap", "vmap", "shard_map", "unchecked"])
def test_drifted_statistics_act_as_their_average_and_leave_equal(mode, fast, rng):
    x, mask, weight, stats, *affine = draw_problem(rng, ratio=100)
    drift = jnp.asarray(rng.uniform(-0.2, 0.2, (2, DEVICES, SHAPE[-1])), jnp.float32)
    stacked = jaxnorm.BatchStats(
        *(s[None] * (1 + d) for s, d in zip(stats, drift, strict=True))
    )
    average = jax.tree.map(lambda s: np.mean(np.asarray(s, np.float64), 0), stacked)
    forward = forward_pass(axis_name=AXIS, momentum=0.9, use_fast_variance=fast)
    rows = (0, 0, 0, 0, None, None)
    if mode == "pmap":
        run = over_rows(lambda f: jax.pmap(f, axis_name=AXIS, in_axes=rows), forward)
    elif mode == "vmap":
        run = over_rows(
            lambda f: jax.jit(jax.vmap(f, in_axes=rows, axis_name=AXIS)), forward
        )
    else:

        def local(x, mask, stats, scale, bias):
            stats = jax.tree.map(lambda s: s[0], stats)
            return forward(x, mask, stats, scale, bias)

        run = shard_map_inside(local, mode == "shard_map", stats=P(AXIS))
    actual = run(x, mask, weight, stacked, *affine)
    check(actual, (x, mask, weight, average, *affine), momentum=0.9)


# ---- several axes, groups


@pytest.mark.parametrize("data", [P(("a", "b")), P("a")])
@pytest.mark.parametrize("check_vma", [True, False])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("build", [shard_map_inside, shard_map_outside])
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


def test_an_axis_that_x_does_not_vary_over_counts_once(rng):
    """Which the types say, so that the factor W / (W - 1) comes out right."""
    problem = draw_problem(rng)
    run = shard_map_inside(
        forward_pass(axis_name=("a", "b"), unbiased=True),
        mesh=mesh_of(AxisType.Auto, (4, 2), ("a", "b")),
        data=P("a"),
    )
    check(run(*problem), problem, unbiased=True)


def test_tuple_of_axes_under_vmap(rng):
    x, mask, weight, stats, *affine = problem = draw_problem(rng)
    step = differentiate(forward_pass(axis_name=("a", "b")))
    for name in ("a", "b"):
        step = jax.vmap(step, in_axes=(0, 0, 0, None, None, None), axis_name=name)
    data = (a.reshape(4, 2, -1, *SHAPE[1:]) for a in (x, mask, weight))
    y, new, dx, *rest = jax.jit(step)(*data, stats, *affine)
    new = jax.tree.map(lambda leaf: leaf[0, 0], new)
    rest = (d.sum((0, 1)) for d in rest)
    check((y.reshape(SHAPE), new, dx.reshape(SHAPE), *rest), problem)


@pytest.mark.parametrize(
    "groups", [((0, 1, 2, 3), (4, 5, 6, 7)), ((0, 7), (3, 5), (1, 2), (4, 6))]
)
@pytest.mark.parametrize("mode", ["pmap", "unchecked"])
def test_groups_of_devices(mode, groups, rng):
    x, mask, weight, stats, *affine = draw_problem(rng)
    step = differentiate(
        forward_pass(axis_name=AXIS, axis_index_groups=[list(g) for g in groups])
    )
    if mode == "pmap":
        step = jax.pmap(step, axis_name=AXIS, in_axes=(0, 0, 0, None, None, None))
        results = step(split(x), split(mask), split(weight), stats, *affine)
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
        )(split(x), split(mask), split(weight), stats, *affine)
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


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("axis_type", [AxisType.Auto, AxisType.Explicit])
def test_sharded_features(axis_type, fast, masked, rng):
    """Rows over one axis of the mesh, features and their statistics over another."""
    x, mask, *others = draw_problem(rng, "bool" if masked else "full")
    problem = (x, mask if masked else None, *others)
    problem = jax.tree.map(lambda a: a[..., :4], problem)
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
    x, weight = x[:, 0], weight[:, 0]
    mask = jnp.arange(len(x)) % 3 > 0
    step = jax.vmap(
        forward_pass(axis_name=AXIS),
        in_axes=(0, 0, None, None, None),
        out_axes=(0, None),
        axis_name=AXIS,
    )
    actual = jax.jit(differentiate(step))(x, mask, weight, stats, *affine)
    check(actual, (x, mask[:, None], weight, stats, *affine))


# ---- collectives


def test_one_collective_forward_and_one_backward(rng, count_primitives):
    x, mask, weight, stats, *affine = draw_problem(rng)
    sharded = jax.shard_map(
        forward_pass(axis_name=AXIS),
        mesh=mesh_of(AxisType.Auto),
        in_specs=(ROWS, ROWS, SAME, SAME, SAME),
        out_specs=(ROWS, SAME),
    )

    def loss(x):
        return jnp.sum(sharded(x, mask, stats, *affine)[0] * weight)

    assert count_primitives("psum", sharded, x, mask, stats, *affine) == 1
    assert count_primitives("psum", jax.grad(loss), x) == 2


def test_remat_that_keeps_the_moments_repeats_no_collective(rng, count_primitives):
    x, _, weight, stats, *affine = draw_problem(rng, "full")
    forward = forward_pass(axis_name=AXIS)

    def block(x):
        return jnp.tanh(forward(jnp.sin(x), None, stats, *affine)[0])

    def count(policy):
        rematerialized = jax.shard_map(
            jax.checkpoint(block, policy=policy),
            mesh=mesh_of(AxisType.Auto),
            in_specs=ROWS,
            out_specs=ROWS,
        )
        gradient = jax.grad(lambda x: jnp.sum(rematerialized(x) * weight))
        return count_primitives("psum", gradient, x)

    policies = jax.checkpoint_policies
    assert count(policies.nothing_saveable) == 3
    assert count(policies.save_only_these_names(jaxnorm.MOMENTS_NAME)) == 2
