"""The shift of per-example normalizers, as it is compiled for each platform."""

import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax import export
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.drawing import draw, place
from support.modes import mesh_of
from support.own_moments import Case
from support.tiers import diagonal, matrix

import jaxnorm

CENTERED = {
    "layer": Case(
        "layer_norm", (4, 96, 8), None, None, None, {"reduction_axes": (1, 2)}
    ),
    "group": Case("group_norm", (4, 96, 8), None, None, None, {"num_groups": 2}),
    "instance": Case("instance_norm", (4, 96, 8), None, None),
}


def loss_and_output(norm, x, weight):
    y = norm(x)
    return jnp.sum(y * weight), y


HARD = {
    "noise": lambda rng, shape: rng.normal(size=shape),
    "outlier": lambda rng, shape: np.where(
        np.indices(shape)[1] == shape[1] - 1, 300.0, rng.normal(size=shape)
    ),
    # The part that is read differs from all others by as much as can be.
    "head": lambda rng, shape: (
        rng.normal(size=shape) + 1e3 * (np.indices(shape)[1] < 3)
    ),
    "alone": lambda rng, shape: np.indices(shape)[1] < 3.0,
}


@pytest.mark.parametrize(
    "name, kind",
    matrix(
        itertools.product(CENTERED, HARD),
        often=[*diagonal(CENTERED, HARD), ("layer", "head"), ("group", "head")],
    ),
)
def test_a_part_of_x_is_as_good_as_the_whole(name, kind, rng):
    case = CENTERED[name]
    step = jax.jit(
        jax.grad(
            functools.partial(loss_and_output, case.ours(epsilon=1e-6)), has_aux=True
        )
    )
    weight = draw(rng, case.shape)
    for ratio in (0, 1, 1e2, 1e4):
        x = place(HARD[kind](rng, case.shape) + ratio)
        reference = case.oracle(epsilon=1e-6)
        expected = reference(x)
        dx, y = step(x, weight)
        largest = max(1, np.max(np.abs(expected)))
        assert np.max(np.abs(oracles.wide(y) - expected)) <= 1e-5 * largest, ratio
        direction = rng.normal(size=case.shape)
        change = reference(oracles.wide(x) + 1e-4 * direction) - reference(
            oracles.wide(x) - 1e-4 * direction
        )
        slope = np.sum(change * oracles.wide(weight)) / 2e-4
        size = np.linalg.norm(oracles.wide(dx)) + 1e-3
        assert abs(np.sum(oracles.wide(dx) * direction) - slope) <= 1e-4 * size, ratio


@pytest.mark.parametrize(
    ("name", "mode"),
    matrix(
        itertools.product(
            CENTERED, ("vmap", "check_vma", "unchecked", "Explicit", "Auto")
        ),
        often=[
            ("layer", "vmap"),
            ("group", "Explicit"),
            ("instance", "check_vma"),
        ],
    ),
)
def test_over_devices(name, mode, rng):
    case = CENTERED[name]
    x, weight = draw(rng, case.shape, loc=50), draw(rng, case.shape)

    def step(x, weight, **options):
        function = functools.partial(loss_and_output, case.ours(**options))
        return jax.grad(function, has_aux=True)(x, weight)

    expected = jax.jit(step)(x, weight)
    if mode == "vmap":
        divide = functools.partial(jnp.reshape, shape=(4, 8, 12, 8))
        parts = jax.vmap(functools.partial(step, axis_name="i"), 1, 1, axis_name="i")
        actual = jax.jit(parts)(*map(divide, (x, weight)))
        actual = jax.tree.map(lambda part: part.reshape(case.shape), actual)
    else:
        kind = AxisType.Explicit if mode == "Explicit" else AxisType.Auto
        mesh, spec = mesh_of(kind), P(None, "batch")
        if mode in ("check_vma", "unchecked"):
            step = jax.shard_map(
                functools.partial(step, axis_name="batch"),
                mesh=mesh,
                in_specs=spec,
                out_specs=spec,
                check_vma=mode == "check_vma",
            )
        with jax.set_mesh(mesh):
            sharded = jax.device_put((x, weight), NamedSharding(mesh, spec))
            actual = jax.jit(step)(*sharded)
    for a, b in zip(actual, expected, strict=True):
        assert oracles.error(a, b) <= 1e-5


def reads(platform, function, *args):
    """Shapes of what is summed over more than one axis, or a last one, by platform."""
    lowered = jax.jit(function).trace(*args).lower(lowering_platforms=(platform,))
    return re.findall(
        r"stablehlo.reduce\(.*: \(tensor<([\dx]+)xf32>", lowered.as_text()
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_which_part_is_read(dtype):
    """All of it where it costs nothing: in short rows on GPUs, without a gradient."""
    rows = jnp.zeros((4, 256), dtype)
    all_of_it = ["4x256"] * 3
    assert reads("cuda", jaxnorm.layer_norm, rows) == all_of_it
    for platform in ("cpu", "tpu"):
        assert reads(platform, jaxnorm.layer_norm, rows) == ["4x8", *all_of_it[1:]]
    # One kernel would not do: the backward pass needs the moments.
    gradient = jax.grad(lambda x: jnp.sum(jaxnorm.layer_norm(x) ** 2))
    assert reads("cuda", gradient, rows)[0] == "4x8"
    long = jnp.zeros((2, 2**15), dtype)
    assert reads("cuda", jaxnorm.layer_norm, long)[0] == "2x1024"

    image = jnp.zeros((2, 8, 16, 4), dtype)
    all_of_it = ["2x8x16x4"] * 3
    for platform in ("cpu", "cuda", "rocm", "tpu"):
        part = ["2x1x4x4", *all_of_it[1:]]
        assert reads(platform, jaxnorm.instance_norm, image) == part


@pytest.mark.parametrize("name", matrix(CENTERED, often=["group"]))
def test_space_of_a_symbolic_size(name, as_users_run_it):
    """Whose part no comparison could tell; without a constraint on the size."""
    batch, space = export.symbolic_shape("b, s")
    x = jax.ShapeDtypeStruct((batch, space, 8), jnp.float32)
    norm = jax.jit(CENTERED[name].ours())
    exported = export.export(norm, platforms=["cpu", "cuda", "tpu"])(x)
    values = np.arange(96, dtype=np.float32).reshape(3, 4, 8)
    assert oracles.error(exported.call(values), norm(values)) <= 1e-5


def test_no_program_branches_when_it_runs():
    text = jax.jit(jaxnorm.layer_norm).lower(jnp.zeros((4, 256))).compile().as_text()
    assert "conditional" not in text
