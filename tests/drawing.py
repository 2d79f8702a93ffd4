"""Random inputs and statistics."""

import jax.numpy as jnp
import numpy as np

import jaxnorm


def draw(rng, shape, dtype=np.float32, loc=0.0, std=1.0):
    """Random numbers, rounded to the dtype; None for the shape None."""
    if shape is None:
        return None
    values = rng.normal(loc, std, shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * rng.normal(-loc, std, shape)
    return jnp.asarray(values, dtype)


def draw_stats(rng, shape, dtype=np.float32):
    mean, var = rng.normal(0.3, 0.2, shape), rng.uniform(0.5, 2, shape)
    return jaxnorm.BatchStats(jnp.asarray(mean, dtype), jnp.asarray(var, dtype))
