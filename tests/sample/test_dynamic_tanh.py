"""Dynamic tanh beside the oracle.

What it has in common with others is in test_response_norms*.py.
"""

import pytest
from support.responses_beside_oracle import cases_of, check_case


@pytest.mark.parametrize("case", cases_of("dynamic_tanh"))
def test_oracle(case, rng):
    check_case("dynamic_tanh", case, rng)
