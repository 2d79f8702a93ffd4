"""Random inputs and statistics."""

import jax
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
    return place(values, dtype)


def draw_stats(rng, shape, dtype=np.float32):
    mean, var = rng.normal(0.3, 0.2, shape), rng.uniform(0.5, 2, shape)
    return jaxnorm.BatchStats(place(mean, dtype), place(var, dtype))


def place(values, dtype=np.float32):
    """A JAX array of NumPy's, rounded by NumPy.

    `jnp.asarray` would compile a conversion, and for each shape a program that copies.
    """
    return jax.device_put(np.array(values, dtype))


def zeros(shape, dtype=np.float32):
    return place(np.zeros(shape), dtype)


def ones(shape, dtype=np.float32):
    return place(np.ones(shape), dtype)
