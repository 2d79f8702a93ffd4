"""Running norm beside Gymnasium's, which normalizes observations by float64 moments."""

import jax
import numpy as np
import pytest

import jaxnorm

pytestmark = pytest.mark.peers
gymnasium_utils = pytest.importorskip("gymnasium.wrappers.utils")

SHAPE = (3, 2)  # of an observation


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_moments_and_observations(mean, rng):
    """In batches of unequal size, from the same start: a ten-thousandth of one."""
    theirs = gymnasium_utils.RunningMeanStd(shape=SHAPE)
    start = jaxnorm.init_running_moments(SHAPE)
    moments = start._replace(count=start.count + np.float32(theirs.count))

    @jax.jit
    def step(x, moments):
        return jaxnorm.running_norm(x, moments, update=True, feature_axes=(1, 2))

    for size in (1, 8, 8, 100):
        x = np.float32(rng.normal(mean, 3, (size, *SHAPE)))
        y, moments = step(x, moments)
        theirs.update(np.float64(x))
        expected = (x - theirs.mean) / np.sqrt(theirs.var + 1e-8)
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(moments.count, np.full(SHAPE, theirs.count), rtol=1e-7)
    np.testing.assert_allclose(moments.mean, theirs.mean, rtol=1e-6)
    np.testing.assert_allclose(moments.var, theirs.var, rtol=1e-5)
