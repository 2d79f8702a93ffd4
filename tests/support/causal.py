"""What the tests of causal group norm share: a small problem and its masks."""

import jax
import numpy as np

import jaxnorm

SHAPE, KEPT = (2, 6, 3, 4), (2, 2)
OPTIONS = {"num_groups": 2, "epsilon": 0.03}  # large enough to see where it is added


def of_all(x, mask, moments=None):
    return jaxnorm.causal_group_norm(x, moments, mask=mask, **OPTIONS)


def draw_mask(rng, kind):
    """With steps of which nothing counts; the first ones of one example."""
    if kind is None:
        return None
    mask = rng.uniform(size=SHAPE) < 0.7
    mask[0, :2] = mask[1, 3] = False
    return jax.device_put(np.where(mask, rng.uniform(0.5, 2, SHAPE), 0))
