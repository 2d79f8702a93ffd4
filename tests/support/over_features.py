"""Norms of examples whose features lie on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from support.counting import count_all_reduces
from support.family import close
from support.modes import mesh_of

AXIS, DEVICES = "features", 8
MODES = ("pmap", "check_vma", "no check_vma")


def differentiate(norm):
    """Gradients in all arguments of a sum over y, and y."""

    def step(*arguments):
        def loss(*arguments):
            y = norm(*arguments)
            return jnp.sum(jnp.sin(y)), y

        every = tuple(range(len(arguments)))
        return jax.grad(loss, every, has_aux=True)(*arguments)

    return step


def check_over_features(mode, whole, norm, arguments, all_reduces):
    """Compares a norm of arrays that are cut along their last axes with the whole."""
    expected = jax.device_get(jax.jit(differentiate(whole))(*arguments))
    if mode == "pmap":
        parts = [np.stack(np.split(np.asarray(a), DEVICES, -1)) for a in arguments]
        devices = jax.devices("cpu")[:DEVICES]
        run = jax.pmap(differentiate(norm), axis_name=AXIS, devices=devices)
        program = run.lower(*parts).compile()
        actual = jax.tree.map(
            lambda leaf: np.concatenate(leaf, -1), jax.device_get(program(*parts))
        )
    else:
        specs = tuple(P(*[None] * (a.ndim - 1), AXIS) for a in arguments)
        mapped = jax.shard_map(
            norm,
            mesh=mesh_of(AxisType.Auto, names=(AXIS,)),
            in_specs=specs,
            out_specs=specs[0],
            check_vma=mode == "check_vma",
        )
        program = jax.jit(differentiate(mapped)).lower(*arguments).compile()
        actual = program(*arguments)
    assert count_all_reduces(program) == all_reduces
    close(actual, expected)
