"""Mean-only batch norm beside the oracle.

What it has in common with others is in test_batch_family*.py.
"""

from support.batch_family_beside_oracle import check_training, trained


@trained(["mean only"])
def test_training(name, case, rng, make_mask):
    check_training(name, case, rng, make_mask)
