"""The arrays of a random call: input, mask and parameters."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

LARGEST = 1e16  # std, up to which values and gradients are promised
FARTHEST = 2e15  # running mean that is taken as it is


class Scales(NamedTuple):
    """Standard deviation of x, and how many of it the mean is away from 0."""

    std: float
    ratio: float

    @classmethod
    def draw(cls, rng, dtype):
        """From 1e-30 to 1e30, within the range of the dtype."""
        ranges = ((-2, 2), (-30, -2), (2, 16), (16, 30))
        exponents = ranges[rng.choice(4, p=[0.6, 0.15, 0.2, 0.05])]
        ratio = float(rng.choice([0, 1, 10, 30, 100, 1e3, 1e4]))
        if dtype == jnp.float16:
            exponents, ratio = (-2, 2), min(ratio, 100.0)
        std = float(f"{10 ** rng.uniform(*exponents):.3g}")
        # The mean is no larger than the largest std.
        return cls(std, min(ratio, FARTHEST / 2 / std) if std <= LARGEST else 0.0)

    def unit(self, power):
        """What grows with a power of x: with one below 0, so that products stay near 1.

        (Where a tanh is 1 but for rounding, so is its derivative 0.)
        """
        size = self.std * max(1.0, self.ratio) if power < 0 else self.std
        return size**power

    @property
    def in_range(self):
        """Whether it is where values and gradients are promised."""
        return self.std <= LARGEST


def draw_x(rng, shape, features, dtype, scales):
    """Every feature, and every example, with a scale and an offset of its own."""
    aligned = [n if i in features else 1 for i, n in enumerate(shape)]
    std = 10 ** rng.uniform(-0.5, 0, aligned)
    match rng.choice(["common", "features", "examples"]):
        case "common":
            offset = np.ones(())
        case "features":
            offset = rng.choice([-1.0, 1.0], aligned)
        case "examples":
            offset = rng.choice([-1.0, 1.0], (shape[0], *[1] * (len(shape) - 1)))
    values = rng.normal(scales.ratio * offset, 1, shape)
    if rng.uniform() < 0.05:
        # Constant. Not 0, where a kink as wide as epsilon is narrower than the steps of
        # differences: test_scales.py has zeros.
        values = np.ones(shape) * max(1.0, scales.ratio) * offset
    values = scales.std * std * values
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * scales.std * rng.normal(scales.ratio, 1, shape)
    return np.asarray(values, dtype)


def draw_mask(rng, shape, features):
    """None, or a mask of some kind."""
    drawn = rng.uniform(size=shape)
    kinds = ["bool", "integer", "weights", "examples", "lower rank", "features"]
    kind = rng.choice([*[None] * 3, *kinds, "nothing"])
    match kind:
        case None:
            return None
        case "bool":
            return drawn < 0.7
        case "integer":
            return np.floor(4 * drawn).astype(np.int32) - 1
        case "weights":
            return np.where(drawn < 0.3, 0, 2 * drawn).astype(np.float32)
        case "examples":
            return rng.uniform(size=(shape[0], *[1] * (len(shape) - 1))) < 0.7
        case "lower rank":
            less = int(rng.integers(1, len(shape)))
            mask = rng.uniform(size=shape[less:]) < 0.7
            pairs = zip(mask.shape, shape, strict=False)
            either = all(n in (1, first) for n, first in pairs)
            return mask[(None,) * less] if either else mask  # without the warning
        case "features":
            aligned = [n if i in features else 1 for i, n in enumerate(shape)]
            return rng.uniform(size=aligned) < 0.7
    return np.zeros(shape, bool)


def hide(rng, x, mask):
    """x with numbers that are not finite under the mask, half of the time."""
    if mask is None or rng.uniform() < 0.5:
        return x
    hit = (np.broadcast_to(mask, x.shape) == 0) & (rng.uniform(size=x.shape) < 0.5)
    bad = rng.choice([np.nan, np.inf, -np.inf], x.shape)
    return np.where(hit, bad, x).astype(x.dtype)


OPTIONAL = ("scale", "bias", "threshold", "learned_epsilon", "gain", "mean_scale")
SCALAR = ("v", "threshold", "learned_epsilon", "alpha")


def draw_parameter(rng, key, x, features, unit):
    """A parameter of the feature shape, or of the rank of x; or None, where it may be.

    `unit` is what one of the size of 1 is multiplied by, to have an effect.
    """
    if key in ("ref_mean", "ref_var"):
        return None  # from the moments of x
    if key in OPTIONAL and rng.uniform() < 0.25:
        return None
    dtype = rng.choice(["float32", "x"])
    dtype = x.dtype if dtype == "x" else jnp.dtype(np.float32)
    shape = _draw_parameter_shape(rng, key, x.shape, features)
    if key in ("mean_logits", "var_logits"):
        return np.float32(rng.normal(size=3))
    if key == "forecast" and x.dtype in (np.complex64, np.float64):
        dtype = x.dtype  # in which it is computed with
    if dtype == np.complex64 and key not in ("scale", "bias", "g", "gain", "forecast"):
        dtype = jnp.dtype(np.float32)
    values = rng.normal(size=shape)
    if dtype == np.complex64:
        values = values + 1j * rng.normal(size=shape)
    match key:
        case "scale" | "g" | "gain":
            values = 1 + 0.5 * values
        case "gate":
            values = rng.uniform(0, 1, shape)
        case "threshold":
            values = values - 0.5
        case "v":
            values = 1 + 0.3 * values
    limit = min(float(jnp.finfo(dtype).max), 1e37)
    return np.clip(values * unit, -limit, limit).astype(dtype)


def _draw_parameter_shape(rng, key, shape, features):
    if key in ("z", "forecast"):
        return shape
    if key in SCALAR and rng.uniform() < 0.3:
        return ()
    if rng.uniform() < 0.7 or key == "mean_scale":
        return tuple(shape[axis] for axis in features)
    return tuple(int(rng.choice([1, n])) for n in shape)
