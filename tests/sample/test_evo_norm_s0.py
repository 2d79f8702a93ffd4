"""EvoNorm S0 beside the oracle.

What it has in common with others is in test_response_norms*.py.
"""

import pytest
from support.drawing import draw
from support.response_norms import NORMS, draw_parameters
from support.responses_beside_oracle import cases_of, check, check_case


@pytest.mark.parametrize("case", cases_of("evo_norm_s0"))
def test_oracle(case, rng):
    check_case("evo_norm_s0", case, rng)


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_evo_norm_with_a_large_mean(ratio, rng):
    norm, shape = NORMS["evo_norm_s0"], (4, 16, 4)
    x = draw(rng, shape, loc=ratio)
    parameters = draw_parameters(rng, norm, (4,), (4,))
    dy = draw(rng, shape, std=1 / ratio)  # so that the gradients are near 1
    check(norm, norm.reference, x, parameters, dy, num_groups=2)
