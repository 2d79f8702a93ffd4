"""Layer norm beside the oracle.

What it has in common with others is in test_own_moments*.py.
"""

import jax
import numpy as np
import pytest
from support.drawing import draw
from support.own_moments import PLAIN
from support.own_moments_beside_oracle import cases_of, check_case


@pytest.mark.parametrize("name", cases_of("layer_norm"))
def test_oracle(name, rng, make_mask):
    check_case(name, rng, make_mask)


def test_unequal_weights_are_not_members(rng):
    """Which a test against Flax could not see: it makes booleans of them."""
    x = draw(rng, (4, 6))
    weights = np.square(draw(rng, (4, 6)))
    case = PLAIN["layer"]
    run = jax.jit(lambda x, *masks: [case.ours(mask=m)(x) for m in masks])
    y, members = jax.device_get(run(x, weights, weights > 0))
    assert np.max(np.abs(y - members)) > 0.1
