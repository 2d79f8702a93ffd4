"""What libraries on JAX need that were not written for strict numerics."""

import jax
import pytest


@pytest.fixture(autouse=True)
def as_peers_run():
    with (
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield
