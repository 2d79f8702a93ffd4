"""What the tests of tools share."""

import jaxtyping
import pytest


@pytest.fixture
def as_users_run_it():
    """Without types checked at run time."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
