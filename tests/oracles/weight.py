"""Normalizers of weights; there are no masks, and no examples."""

import numpy as np

from oracles import parts
from oracles.parts import affine, expand, power, read, standardize, take_moments, wide


def weight_norm(v, g, *, feature_axes=-1, epsilon=0.0):
    """g * v / sqrt(|v|^2 + epsilon), 0 where v is 0 and epsilon is."""
    data = read(v, None, feature_axes)
    own = power(data, data.others)
    square = own.var * own.count + epsilon
    return data.x * expand(g, data, None) / np.sqrt(np.where(square == 0, 1, square))


def standardize_weight(w, gain=None, *, feature_axes=-1, epsilon=1e-6):
    """(w - mean) / sqrt(var + epsilon); with a gain, times it / sqrt(fan_in * var)."""
    data = read(w, None, feature_axes)
    own = take_moments(data, data.others)
    if gain is not None:
        epsilon, own = 0.0, own._replace(var=np.maximum(own.count * own.var, 1e-4))
    return affine(standardize(data, own, epsilon), gain, None, data)


def power_iteration(w, u, n_steps, epsilon):
    """The singular vectors v and u after some steps; epsilon is relative."""
    matrix, u = wide(w).reshape(-1, np.shape(w)[-1]), wide(u)
    u, epsilon = u / np.sqrt(u @ u), epsilon * np.max(np.abs(matrix)) ** 2
    with np.errstate(invalid="ignore"):  # a weight of zeros has none
        for _ in range(n_steps):
            v = matrix @ u
            v = v / np.sqrt(v @ v + epsilon)
            u = matrix.T @ v
            u = u / np.sqrt(u @ u + epsilon)
    return v, u


def spectral_norm(w, u, *, n_steps=1, epsilon=1e-12, frozen=None):
    """w / sigma, the new u, and sigma = v' W u; frozen=(v, u) has no derivative."""
    v, u = frozen or power_iteration(w, u, n_steps, epsilon)
    sigma = v @ wide(w).reshape(-1, np.shape(w)[-1]) @ u
    _, _, square = parts.observed(1.0, None, sigma**2)
    return wide(w) / np.sqrt(square), u, sigma
