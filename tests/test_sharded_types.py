"""Arrays that are sharded along any axis, on meshes whose axes are Explicit or Auto.

On Explicit axes, JAX's default, the types of arrays tell how these are sharded.
"""

import functools

import jax
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.family import (
    FEATURES,
    KINDS,
    TABLE,
    draw_arguments,
    draw_mask,
    gradients_of,
)
from support.modes import mesh_of
from support.tiers import matrix

SIZES, AXES = (2, 2, 2), ("data", "space", "model")
INPUTS = [
    P("data", None, "model"),
    P("data", "space", "model"),
    P(None, None, ("data", "model")),
    P("data", None, None),
]
# Which part of the mask is passed, and how it is sharded; None: as x is.
MASKS = {
    "as x": (np.s_[:], None),
    "whole": (np.s_[:], P()),
    "otherwise": (np.s_[:], P(None, "data", "space")),
    "examples": (np.s_[:, :1, :1], P("data")),
    "features": (np.s_[:1, :1], P(None, None, "model")),
}


def shard(mesh, name, spec, features, mask_kind=None):
    """The arguments, their last axis sharded over `features` if it is that of x."""

    def put(value, spec):
        return jax.device_put(value, NamedSharding(mesh, spec))

    def put_small(value):
        last = value.shape[-1:] == (FEATURES,)
        return put(value, P(*[None] * (value.ndim - 1), features) if last else P())

    x, params, state = draw_arguments(TABLE[name])
    params, state = jax.tree.map(put_small, (params, state))
    mask = None
    if mask_kind is not None:
        part, mask_spec = MASKS[mask_kind]
        mask = put(
            draw_mask(TABLE[name])[part], spec if mask_spec is None else mask_spec
        )
    return put(x, spec), params, state, mask


def mask_kinds(name):
    return (None, *MASKS) if TABLE[name].masked else (None,)


def kind_of(value):
    kind = jax.typeof(value) if isinstance(value, jax.Array) else value
    return kind.shape, kind.dtype, tuple(kind.sharding.spec)


# One of each kind, and those with axes or arguments of their own.
OFTEN = (
    *KINDS,
    "adaptive_batch_norm",
    "causal_group_norm",
    "gated_rms_norm",
    "graph_norm",
    "seed_norm",
)


@pytest.mark.parametrize("name", matrix(TABLE, OFTEN))
def test_results_are_sharded_as_arguments_are(name):
    """As types alone tell: y as x, and the state as it was."""
    mesh = mesh_of(AxisType.Explicit, SIZES, AXES)
    cases = [(INPUTS[0], None, None), (INPUTS[2], "model", None)]
    if TABLE[name].masked:
        cases = [cases[0], (INPUTS[0], None, "features"), (INPUTS[1], "model", "whole")]
    for case in cases:
        with jax.set_mesh(mesh):
            x, params, state, mask = shard(mesh, name, *case)
            traced = jax.make_jaxpr(TABLE[name].call)(x, params, state, mask)
        expected = jax.tree.leaves((x, state))
        assert [*map(kind_of, traced.out_avals)] == [*map(kind_of, expected)], case


@functools.cache
def on_one_device(name, mask_kind):
    x, params, state = draw_arguments(TABLE[name])
    mask = None if mask_kind is None else draw_mask(TABLE[name])[MASKS[mask_kind][0]]
    return jax.device_get(jax.jit(gradients_of(name))(x, params, state, mask))


def check_values(name, axis_type, spec, features, mask_kind, transform=jax.jit):
    mesh = mesh_of(axis_type, SIZES, AXES)
    with jax.set_mesh(mesh):
        arguments = shard(mesh, name, spec, features, mask_kind)
        actual = transform(gradients_of(name))(*arguments)
    if axis_type == AxisType.Explicit:
        x, params, state, _ = arguments
        types = jax.tree.map(kind_of, ((x, params), (x, state)))
        assert jax.tree.map(kind_of, actual) == types
    expected = on_one_device(name, mask_kind)
    pairs = zip(*map(jax.tree.leaves, (actual, expected)), strict=True)
    for value, wanted in pairs:
        assert oracles.error(value, wanted) <= 1e-4


COMPILED = "batch_norm", "ghost_batch_norm", "switchable_norm", "group_norm"


@pytest.mark.parametrize("name", matrix(COMPILED, often=["ghost_batch_norm"]))
def test_values_are_those_of_one_device(name):
    check_values(name, AxisType.Explicit, INPUTS[1], None, "features")


@pytest.mark.full
def test_values_without_jit_are_those_of_one_device():
    """Of the forward pass; the slow tier has gradients, of all."""
    mesh = mesh_of(AxisType.Explicit, SIZES, AXES)
    with jax.set_mesh(mesh):
        arguments = shard(mesh, "rms_norm", INPUTS[0], None, "examples")
        y, _ = TABLE["rms_norm"].call(*arguments)
    assert kind_of(y) == kind_of(arguments[0])
    _, (wanted, _) = on_one_device("rms_norm", "examples")
    assert oracles.error(y, wanted) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("axis_type", [AxisType.Explicit, AxisType.Auto])
def test_values_in_every_combination(name, axis_type):
    for spec in INPUTS:
        for features in (None, "model"):
            for mask_kind in mask_kinds(name):
                check_values(name, axis_type, spec, features, mask_kind)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_values_without_jit_of_all(name):
    for mask_kind in mask_kinds(name):
        check_values(name, AxisType.Explicit, INPUTS[0], None, mask_kind, lambda f: f)
