"""Running statistics of a random call."""

import jax.numpy as jnp
import numpy as np
import oracles

from support.draw_arrays import FARTHEST


def draw_stats(rng, x, axes, mask, scales, near):
    """Running mean and variance: those of a start, or nearer to x, or farther."""
    _, mean, var = oracles.moments(x, feature_axes=axes, mask=mask)
    kind = rng.choice(["cold", "warm", "far"], p=[0.25, 0.6, 0.15])
    if near and kind == "cold" and scales.ratio > 30:
        kind = "warm"
    if kind == "cold":
        return np.zeros_like(mean), np.ones_like(var)
    away = rng.uniform(-1, 1, mean.shape) * scales.std
    factor = rng.uniform(0.5, 2, var.shape)
    if kind == "far":
        away = away * (30 if near else 1e4)
        factor = factor * 10.0 ** rng.integers(-2, 4)
    var = (var + scales.std**2 / 9) * factor
    mean = mean + away
    # From FARTHEST on, 0 is taken in its place: squares of other numbers may overflow.
    mean = mean / np.maximum(1, np.abs(mean) / FARTHEST)
    return mean, np.where(var < 1e-37, 0, np.minimum(var, 1e37))  # of float32


def as_state(rng, kind, mean, var, epsilon):
    """The arrays of a state of this kind."""
    dtype = jnp.bfloat16 if rng.uniform() < 0.1 else np.float32
    own = np.complex64 if np.iscomplexobj(mean) else dtype
    std = np.sqrt(var + epsilon).astype(dtype)
    mean, var = mean.astype(own), var.astype(dtype)
    match kind:
        case "renorm":
            return mean, std, np.float32(3)
        case "mean":
            return (mean,)
        case "var":
            return (var,)
        case "stream":  # each is the sum of two numbers
            parts = np.full_like(var, rng.choice([0, 3, 1000])), mean, var
            half = rng.uniform(-1, 1, mean.shape) / 2
            return *parts, *(_rounding_error(half, part) for part in parts)
        case "steps":
            return np.stack([mean] * 3), np.stack([var] * 3)
    return mean, var


def _rounding_error(half, part):
    """A part of what may be lost of a number, from -1/2 to 1/2 of its spacing."""
    return (half * float(jnp.finfo(part.dtype).eps) * oracles.wide(part)).astype(
        part.dtype
    )
