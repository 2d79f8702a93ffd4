"""Graph norm beside the oracle.

What it has in common with others is in test_segments*.py.
"""

import jax.numpy as jnp
import pytest
from support.refusals import refused
from support.segments import cases_of, check_case

import jaxnorm


@pytest.mark.parametrize("name", cases_of("graph_norm"))
def test_oracle(name, rng, make_mask):
    check_case(name, "graph_norm", rng, make_mask)


def test_a_mean_scale_of_each_position(as_users_run_it):
    options = {"segment_ids": jnp.zeros(4, jnp.int32), "num_segments": 2}
    with refused("mean_scale", "(4, 3)"):
        jaxnorm.graph_norm(jnp.zeros((4, 3)), jnp.ones((4, 3)), **options)
