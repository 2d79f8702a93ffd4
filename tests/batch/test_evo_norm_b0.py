"""EvoNorm B0 beside the oracle.

What it has in common with others is in test_batch_family*.py.
"""

import jax
import oracles
from support.batch_family import FAMILY
from support.batch_family_beside_oracle import check_training, trained
from support.drawing import draw


@trained(["evo"])
def test_training(name, case, rng, make_mask):
    check_training(name, case, rng, make_mask)


def test_evo_norm_of_large_means_in_two_passes(rng):
    """It has no running mean to shift by; x itself is large, so y is too."""
    normalizer = FAMILY["evo"]
    state, params = normalizer.draw_state(rng), normalizer.draw_params(rng)
    x, ours = draw(rng, (8, 10, 5), loc=1e4), normalizer.ours(use_fast_variance=False)
    y, new = jax.jit(ours)(x, None, state, *params)
    expected, wanted = normalizer.oracle(x, None, state)(x, *params)
    assert oracles.error(y, expected) <= 3e-5
    assert oracles.error(new.var, wanted) <= 3e-5
