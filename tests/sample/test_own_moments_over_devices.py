"""Per-example normalizers over eight devices: the same as one, and what it costs."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.counting import count_all_reduces
from support.drawing import draw, place
from support.modes import mesh_of
from support.own_moments import Case
from support.tiers import matrix

DEVICES, AXIS, WHOLE = 8, "parts", 3e-5


class Divided(NamedTuple):
    """A case, the axis of x that is divided, and the collectives that are promised."""

    case: Case
    axis: int
    forward: int
    backward: int

    @property
    def by_features(self):
        return self.axis == 2

    @property
    def specs(self):
        """Of x, and of scale and bias."""
        data = [None, None, None]
        data[self.axis] = AXIS
        return P(*data), P(AXIS) if self.by_features else P(None)


# The features of layer and RMS norm lie on eight devices, or the space of the others.
DIVIDED = {
    "layer": Divided(Case("layer_norm", (8, 2, 24), None, (24,), (24,)), 2, 2, 1),
    "rms": Divided(Case("rms_norm", (8, 2, 24), None, (24,)), 2, 1, 1),
    "group": Divided(
        Case("group_norm", (8, 24, 4), None, (4,), (4,), {"num_groups": 2}), 1, 2, 1
    ),
    "causal": Divided(
        Case("causal_group_norm", (8, 2, 24), None, (24,), (24,)), 2, 2, 1
    ),
    "instance": Divided(Case("instance_norm", (8, 24, 4), None, (4,), (4,)), 1, 2, 1),
}


def draw_problem(rng, case):
    """x, weights, weight of the loss, scale, bias; a device without a valid element."""
    mask = rng.uniform(size=case.shape) < 0.7
    mask[2, :, 3:6] = mask[3, 3:6] = False
    mask[5] = False  # an example of which nothing counts
    x = place(np.where(mask, draw(rng, case.shape, loc=20), np.nan))
    weights = np.where(mask, rng.uniform(0.1, 2, case.shape), 0)
    affine = draw(rng, case.scale, loc=1), draw(rng, case.bias)
    return x, place(weights), draw(rng, case.shape), affine


def forward_pass(case, **options):
    def forward(x, mask, affine):
        return case.ours(mask=mask, **options)(x, *affine)

    return forward


def differentiate(forward):
    def step(x, mask, weight, affine):
        def loss(x, affine):
            y = forward(x, mask, affine)
            return jnp.sum(y * weight), y

        (dx, rest), y = jax.grad(loss, (0, 1), has_aux=True)(x, affine)
        return y, dx, rest

    return step


def compiled(function, *arguments, as_written=False):
    """Results and collectives, also before the compiler joins some of them."""
    lowered = jax.jit(function).lower(*arguments)
    program = lowered.compile()
    count = count_all_reduces(lowered if as_written else program)
    return program(*arguments), count


def split(array, axis):
    """The axis as (devices, what each has)."""
    shape, array = array.shape, np.asarray(array)
    return array.reshape(*shape[:axis], DEVICES, -1, *shape[axis + 1 :])


def mapped(divided, transform, problem, axis_name=AXIS):
    """pmap or vmap of the local gradients; those of shared parameters add up."""
    x, mask, weight, affine = problem
    axis, place = divided.axis, 0 if divided.by_features else None
    data = [split(a, axis) for a in (x, mask, weight)]
    if divided.by_features:
        affine = jax.tree.map(lambda a: split(a, 0), affine)
    step = transform(
        differentiate(forward_pass(divided.case, axis_name=axis_name)),
        axis_name=AXIS,
        in_axes=(axis, axis, axis, place),
        out_axes=(axis, axis, 0),
    )
    step = step if transform is jax.pmap else jax.jit(step)
    program = step.lower(*data, affine).compile()
    y, dx, rest = program(*data, affine)
    join = np.ravel if divided.by_features else functools.partial(np.sum, axis=0)
    rest = jax.tree.map(join, jax.device_get(rest))
    count = count_all_reduces(program) if transform is jax.pmap else None
    y, dx = (np.asarray(a).reshape(x.shape) for a in (y, dx))
    return (y, dx, rest), count


def shard_map(divided, check_vma, grad, problem):
    forward = forward_pass(divided.case, axis_name=AXIS)
    data, affine = divided.specs
    over = functools.partial(
        jax.shard_map, mesh=mesh_of(AxisType.Auto, names=(AXIS,)), check_vma=check_vma
    )

    def inside(*arguments):
        y, dx, rest = differentiate(forward)(*arguments)
        if not check_vma and not divided.by_features:
            rest = jax.lax.psum(rest, AXIS)
        return y, dx, rest

    if grad == "inside":
        specs = {"in_specs": (data,) * 3 + (affine,), "out_specs": (data, data, affine)}
        return compiled(over(inside, **specs), *problem, as_written=check_vma)
    sharded = over(forward, in_specs=(data, data, affine), out_specs=data)
    return compiled(differentiate(sharded), *problem, as_written=check_vma)


def jit(case, data, affine, kind, problem):
    mesh = mesh_of(kind, names=(AXIS,))
    *arrays, parameters = problem
    arrays = jax.device_put(arrays, NamedSharding(mesh, data))
    parameters = jax.device_put(parameters, NamedSharding(mesh, affine))
    with jax.set_mesh(mesh):
        step = differentiate(forward_pass(case))
        results, count = compiled(step, *arrays, parameters)
    if kind == AxisType.Explicit:
        assert results[0].sharding.spec == results[1].sharding.spec == data
    return results, count


def jit_divided(kind, divided, problem):
    return jit(divided.case, *divided.specs, kind, problem)


MODES = {
    "pmap": lambda divided, problem: mapped(divided, jax.pmap, problem),
    "vmap": lambda divided, problem: mapped(divided, jax.vmap, problem),
    "jit, Auto": functools.partial(jit_divided, AxisType.Auto),
    "jit, Explicit": functools.partial(jit_divided, AxisType.Explicit),
}
for check_vma in True, False:
    for grad in "inside", "outside":
        MODES[f"shard_map, {check_vma}, {grad}"] = functools.partial(
            lambda check_vma, grad, *rest: shard_map(rest[0], check_vma, grad, rest[1]),
            check_vma,
            grad,
        )


@functools.cache
def problem_and_results(*case, **options):
    """The arguments, and what one device makes of them."""
    case = Case(*case, options)
    problem = draw_problem(np.random.default_rng(0), case)
    x, mask, _, affine = problem
    y, *gradients = jax.jit(differentiate(forward_pass(case)))(*problem)
    assert oracles.error(y, case.oracle(mask=mask)(x, *affine)) <= WHOLE
    return problem, (y, *gradients)  # elsewhere checked against the oracle


def check(case, run):
    """Run a step over the devices; return the number of its collectives."""
    problem, expected = problem_and_results(*case[:-1], **case.options)
    results, count = run(problem)
    results, expected = (
        jax.tree.leaves(jax.device_get(r)) for r in (results, expected)
    )
    for actual, wanted in zip(results, expected, strict=True):
        assert oracles.error(actual, wanted) <= WHOLE
    return count


# Each mode for one of them; causal group norm sums over steps, too.
OFTEN = [
    ("layer", "pmap"),
    ("layer", "vmap"),
    ("rms", "jit, Auto"),
    ("rms", "shard_map, True, inside"),
    ("group", "jit, Explicit"),
    ("group", "shard_map, False, inside"),
    ("causal", "shard_map, True, outside"),
    ("instance", "shard_map, False, outside"),
]


@pytest.mark.parametrize(
    ("name", "mode"), matrix(itertools.product(DIVIDED, MODES), OFTEN)
)
def test_divided(name, mode):
    """Features, or space, over the devices; collectives as the docstrings say."""
    divided = DIVIDED[name]
    count = check(divided.case, functools.partial(MODES[mode], divided))
    assert count in (None, divided.forward + divided.backward)


@pytest.mark.parametrize(
    ("name", "kind"),
    matrix(
        itertools.product(DIVIDED, (AxisType.Explicit, AxisType.Auto)),
        often=[("layer", AxisType.Auto), ("group", AxisType.Explicit)],
    ),
)
def test_a_sharded_batch(name, kind):
    """Only the gradients of scale and bias cross devices."""
    case = DIVIDED[name].case
    run = functools.partial(jit, case, P(AXIS, None, None), P(None), kind)
    assert check(case, run) == 1


@pytest.mark.parametrize("name", matrix(DIVIDED, often=["layer", "rms"]))
def test_collectives_of_the_forward_pass(name):
    divided = DIVIDED[name]
    *case, options = divided.case
    problem, _ = problem_and_results(*case, **options)
    data, affine = divided.specs
    forward = jax.shard_map(
        forward_pass(divided.case, axis_name=AXIS),
        mesh=mesh_of(AxisType.Auto, names=(AXIS,)),
        in_specs=(data, data, affine),
        out_specs=data,
    )
    x, mask, _, affine = problem
    _, count = compiled(forward, x, mask, affine, as_written=True)
    assert count == divided.forward


@pytest.mark.parametrize(
    ("num_groups", "kind"),
    matrix(
        [
            (8, AxisType.Explicit),
            (4, AxisType.Explicit),
            (4, AxisType.Auto),
            (1, AxisType.Explicit),
        ],
        often=[(8, AxisType.Explicit), (4, AxisType.Explicit)],
    ),
)
def test_groups_of_sharded_channels(num_groups, kind):
    """Each on a device, on two, and on all."""
    options = {"num_groups": num_groups}
    case = Case("group_norm", (8, 6, 16), None, (16,), (16,), options)
    run = functools.partial(jit, case, P(None, None, AXIS), P(AXIS), kind)
    count = check(case, run)
    if num_groups == 8:
        assert count == 0


@pytest.mark.parametrize("transform", [jax.pmap, jax.vmap])
def test_whole_groups_on_each_device_share_nothing(transform):
    case = Case("group_norm", (8, 6, 16), None, (16,), (16,), {"num_groups": 8})
    local = case._replace(options={"num_groups": 1})
    run = functools.partial(mapped, Divided(local, 2, 0, 0), transform, axis_name=None)
    assert not check(case, run)
