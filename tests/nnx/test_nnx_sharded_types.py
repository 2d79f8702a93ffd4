"""Modules on a mesh with Explicit axes, with their variables as they are made."""

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.drawing import place
from support.family import SHAPE
from support.family_modules import all_with_a_function
from support.modes import mesh_of
from support.nnx_modules import build, call


@all_with_a_function
def test_features_are_sharded_and_statistics_are_not(name):
    """y is sharded as x is, and the statistics stay replicated."""
    mesh = mesh_of(AxisType.Explicit, (4, 2), ("data", "model"))

    def step(x):
        module = build(name)
        y = call(name, module, x)
        return y, nnx.state(module, nnx.BatchStat)

    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, P("data", None, "model"))
        x = jax.device_put(place(np.ones(SHAPE)), sharding)
        y, new = jax.eval_shape(step, x)
    assert y.sharding.spec == x.sharding.spec
    for leaf in jax.tree.leaves(new):
        assert leaf.sharding is None or set(leaf.sharding.spec) <= {None}
