"""Filter response norm beside the oracle.

What it has in common with others is in test_response_norms*.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawing import draw
from support.response_norms import NORMS, draw_parameters
from support.responses_beside_oracle import cases_of, check, check_case


@pytest.mark.parametrize("case", cases_of("filter_response_norm"))
def test_oracle(case, rng):
    check_case("filter_response_norm", case, rng)


def test_learned_epsilon(rng):
    """Also where it is negative: it is the absolute value that counts."""
    norm, shape = NORMS["filter_response_norm"], (4, 3, 4)
    for case in ((4,), ()):
        parameters = draw_parameters(rng, norm, (4,), (4,))
        parameters["learned_epsilon"] = draw(rng, case, std=0.1)
        x = draw(rng, shape, std=0.3)
        check(norm, norm.reference, x, parameters, draw(rng, shape), epsilon=0.01)


def test_learned_epsilon_beyond_the_range_is_noticed(rng):
    """With it the mean square exceeds the range, and y would be the bias."""
    norm = NORMS["filter_response_norm"]
    x, shape = jnp.full((2, 3, 4), 1e19), (4,)
    parameters = draw_parameters(rng, norm, shape, shape)
    epsilon = jnp.full(shape, 3e38)
    y = jax.jit(norm.function)(x, **parameters, learned_epsilon=epsilon)
    assert np.all(np.isnan(y))
