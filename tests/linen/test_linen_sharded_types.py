"""Modules on a mesh with Explicit axes, with their variables as `init` makes them."""

import functools

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.drawing import place
from support.family import SHAPE
from support.family_entries import COLLECTIONS
from support.family_modules import TABLE, all_with_a_function
from support.modes import mesh_of


@all_with_a_function
def test_features_are_sharded_and_statistics_are_not(name):
    """y is sharded as x is, and the statistics stay replicated."""
    entry, mesh = TABLE[name], mesh_of(AxisType.Explicit, (4, 2), ("data", "model"))
    module = entry.build(True)

    def step(variables, x):
        return entry.apply(module, variables, x, mutable=COLLECTIONS)

    with jax.set_mesh(mesh):
        sharding = NamedSharding(mesh, P("data", None, "model"))
        x = jax.device_put(place(np.ones(SHAPE)), sharding)
        init = functools.partial(entry.init, module)
        variables = jax.eval_shape(init, jax.random.key(0), x)
        y, new = jax.eval_shape(step, variables, x)
    assert y.sharding.spec == x.sharding.spec
    for leaf in jax.tree.leaves(new):
        assert leaf.sharding is None or set(leaf.sharding.spec) <= {None}
