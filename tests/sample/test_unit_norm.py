"""Vectors of length 1: of every size, over devices, and what is kept."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from oracles import directional, unit_norm
from support.counting import count_all_reduces
from support.drawing import draw, place
from support.jitted import jitted
from support.modes import mesh_of
from support.refusals import refused
from support.tiers import diagonal, in_full, matrix

import jaxnorm

CASES = {
    "last": ((4, 3, 6), {}),
    "epsilon": ((4, 6), {"epsilon": 0.5}),
    "of one number": ((4, 1), {"epsilon": 0.5}),
    "channels first": ((4, 6, 3), {"axes": 1}),
    "several axes": ((4, 3, 6), {"axes": (-1, 1)}),
}


@functools.cache
def differentiated(options):
    @jax.jit
    def step(x, weight):
        def loss(x):
            y = jaxnorm.unit_norm(x, **dict(options))
            return jnp.sum(jnp.real(jnp.conj(weight) * y)), y

        return jax.grad(loss, has_aux=True)(x)

    return step


@pytest.mark.parametrize(
    ("case", "dtype"),
    matrix(
        itertools.product(CASES, (np.float32, np.complex64)),
        often=diagonal(CASES, (np.float32, np.complex64)),
    ),
)
def test_oracle(case, dtype, rng):
    shape, options = CASES[case]
    x, weight = draw(rng, shape, dtype), draw(rng, shape, dtype)
    gradient, y = jax.device_get(differentiated(tuple(options.items()))(x, weight))
    assert oracles.error(y, unit_norm(x, **options)) <= 1e-6

    def loss(x):
        return np.sum(np.real(np.conj(oracles.wide(weight)) * unit_norm(x, **options)))

    direction = oracles.wide(draw(rng, shape, dtype))
    expected = directional(loss, [x], [direction])
    actual = np.sum(np.real(oracles.wide(gradient) * direction))
    assert abs(actual - expected) <= 1e-5 * np.linalg.norm(gradient)


@pytest.mark.parametrize("size", [1e-35, 1e-30, 1e-19, 1.0, 1e19, 1e37])
def test_of_every_size(size, rng):
    """Beside others, and with zeros."""
    sizes = np.array([size, 1.0, 0.0]).reshape(3, 1)
    x = place(sizes * oracles.wide(draw(rng, (3, 6))))
    weight = draw(rng, (3, 6))
    gradient, y = jax.device_get(differentiated(())(x, weight))
    assert oracles.error(y, unit_norm(x)) <= 1e-6
    assert np.all(y[2] == 0) and np.all(gradient[2] == 0)
    # It grows as the vector shrinks: with its size it is one of a vector of size 1.
    units = oracles.wide(x) / np.where(sizes == 0, 1, sizes)
    of_units = np.asarray(differentiated(())(place(units), weight)[0])
    grown = oracles.wide(gradient) * np.where(sizes == 0, 1, sizes)
    if size < 1e30:  # beyond, the gradient itself is below the range
        assert oracles.error(grown, of_units) <= 1e-5


@pytest.mark.parametrize("end", ["max", "tiny"])
def test_at_the_ends_of_the_range(end, rng):
    """Where a power of two, or its reciprocal, is subnormal, which may count as 0."""
    size = float(getattr(jnp.finfo(jnp.float32), end))
    low, high = (0.6, 1.0) if end == "max" else (1.0, 1.9)
    x = place(size * rng.uniform(low, high, (3, 8)) * rng.choice([-1, 1], (3, 8)))
    y = jax.jit(jaxnorm.unit_norm)(x)
    assert oracles.error(y, unit_norm(x)) <= 1e-6


@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_derivatives_at_zero(epsilon):
    x = jnp.zeros((2, 3))
    norm = functools.partial(jaxnorm.unit_norm, epsilon=epsilon)
    first, second = jax.jit(
        lambda x: (jax.jacobian(norm)(x), jax.hessian(lambda x: jnp.sum(norm(x)))(x))
    )(x)
    expected = 0 if epsilon == 0 else np.eye(6).reshape(2, 3, 2, 3) / epsilon**0.5
    np.testing.assert_allclose(first, np.broadcast_to(expected, (2, 3, 2, 3)), 1e-6)
    np.testing.assert_array_equal(second, 0)


def test_what_is_not_finite_shows(rng):
    x = place(np.stack([[1, np.nan, 2], [1, np.inf, 2], [1, 2, 2]]))
    y = np.asarray(jitted(jaxnorm.unit_norm)(x))
    assert np.all(np.isnan(y).any(-1) == [True, True, False])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_saved_are_x_and_two_numbers_a_vector(dtype):
    shape = (16, 64, 32)

    def backward(x):
        return jax.vjp(jaxnorm.unit_norm, x)[1]

    saved = jax.tree.leaves(
        jax.eval_shape(backward, jax.ShapeDtypeStruct(shape, dtype))
    )
    assert [s.dtype for s in saved if s.size == np.prod(shape)] == [dtype]
    rest = sum(s.size for s in saved if s.size != np.prod(shape))
    assert rest <= 2 * 16 * 64 + 8


AXIS, DEVICES = "parts", 8


@pytest.mark.parametrize(
    "mode", ["pmap", "check_vma", *map(in_full, ("vmap", "no check_vma"))]
)
def test_vectors_over_devices(mode, rng):
    """Two collectives forward and one backward; a device with zeros alone."""
    x = np.array(draw(rng, (3, 16))) * np.float32([[1e-30], [1.0], [1e30]])
    x[:, 2:4] = 0
    weight = np.asarray(draw(rng, (3, 16)))
    expected = jax.device_get(differentiated(())(x, weight))
    norm = functools.partial(jaxnorm.unit_norm, axis_name=AXIS)

    def step(x, weight, norm=norm):
        def loss(x):
            y = norm(x)
            return jnp.sum(y * weight), y

        return jax.grad(loss, has_aux=True)(x)

    if mode in ("pmap", "vmap"):
        parts = [np.stack(np.split(v, DEVICES, -1)) for v in (x, weight)]
        if mode == "pmap":
            run = jax.pmap(step, axis_name=AXIS, devices=jax.devices("cpu")[:DEVICES])
        else:
            run = jax.jit(jax.vmap(step, axis_name=AXIS))
        program = run.lower(*parts).compile()
        actual = jax.device_get(program(*parts))
        actual = [np.concatenate(leaf, -1) for leaf in actual]
    else:
        mapped = jax.shard_map(
            norm,
            mesh=mesh_of(AxisType.Auto, names=(AXIS,)),
            in_specs=P(None, AXIS),
            out_specs=P(None, AXIS),
            check_vma=mode == "check_vma",
        )
        run = jax.jit(functools.partial(step, norm=mapped))
        program = run.lower(x, weight).compile()
        actual = program(x, weight)
    if mode == "check_vma":  # of which the compiler joins two, since the loss is linear
        number = run.lower(x, weight).as_text().count("stablehlo.all_reduce")
    else:
        number = count_all_reduces(program)
    assert number == (0 if mode == "vmap" else 3)
    sizes = np.float64([[1e-30], [1.0], [1e30]])
    scales = [sizes, 1.0]  # the gradient's is that of 1 / x
    for a, b, scale in zip(actual, expected, scales, strict=True):
        assert oracles.error(oracles.wide(a) * scale, oracles.wide(b) * scale) <= 1e-5


BAD = {
    "integers": (dict(x=jnp.ones((2, 3), int)), ("x", "int32", "astype")),
    "axis": (dict(axes=2), ("axes", "2", "rank 2")),
    "epsilon": (dict(epsilon=-1.0), ("epsilon", "-1.0")),
    "dtype": (dict(dtype=jnp.int32), ("dtype", "int32")),
    "groups": (dict(axis_index_groups=[[0]]), ("axis_index_groups", "axis_name")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_run_it):
    options, says = BAD[case]
    options = {"x": jnp.ones((2, 3))} | options
    with refused(*says):
        jaxnorm.unit_norm(**options)
