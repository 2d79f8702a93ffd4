"""Instance norm beside the oracle.

What it has in common with others is in test_own_moments*.py.
"""

import pytest
from support.own_moments_beside_oracle import cases_of, check_case


@pytest.mark.parametrize("name", cases_of("instance_norm"))
def test_oracle(name, rng, make_mask):
    check_case(name, rng, make_mask)
