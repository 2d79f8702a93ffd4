"""RMS norm of segments beside the oracle.

What it has in common with others is in test_segments*.py.
"""

import pytest
from support.segments import cases_of, check_case


@pytest.mark.parametrize("name", cases_of("segment_rms_norm"))
def test_oracle(name, rng, make_mask):
    check_case(name, "segment_rms_norm", rng, make_mask)
