"""What the oracles are made of. Moments and parameters have the rank of x."""

from typing import NamedTuple

import numpy as np


def wide(array):
    """The array in float64 or complex128."""
    array = np.asarray(array)
    return array.astype(np.complex128 if np.iscomplexobj(array) else np.float64)


def error(actual, expected):
    """The largest difference, relative to the largest expected magnitude or 0.1."""
    actual, expected = wide(actual), wide(expected)
    assert actual.shape == expected.shape, (actual.shape, expected.shape)
    largest = np.max(np.abs(expected), initial=0.1)
    return np.max(np.abs(actual - expected), initial=0) / largest


def observed(count, mean, var):
    """The moments that all is made of, as they are: rounding.py has other ones.

    The mean is None where the moments are those about 0.
    """
    return count, mean, var


def directional(f, arguments, directions, step=1e-6):
    """The derivative of f(*arguments) along directions (None: held), numerically."""

    def at(move):
        pairs = zip(arguments, directions, strict=True)
        return f(*(a if d is None else wide(a) + move * wide(d) for a, d in pairs))

    return (at(step) - at(-step)) / (2 * step)


# What they are made of. Moments and parameters have the rank of x.
class Data(NamedTuple):
    x: np.ndarray  # 0 where it is not usable
    weights: np.ndarray
    usable: np.ndarray  # False where the mask hides what is not finite
    others: tuple[int, ...]  # the axes that are not feature axes
    space: tuple[int, ...]  # those but the first


class Moments(NamedTuple):
    count: np.ndarray
    mean: np.ndarray
    var: np.ndarray  # biased


def read(x, mask=None, feature_axes=-1):
    x = wide(x)
    mask = np.ones(()) if mask is None else np.asarray(mask)
    weights = mask != 0 if mask.dtype.kind in "biu" else mask
    weights = np.broadcast_to(weights.astype(np.float64), x.shape)
    usable = (weights > 0) | np.isfinite(x)
    features = {axis % x.ndim for axis in np.atleast_1d(feature_axes)}
    others = tuple(axis for axis in range(x.ndim) if axis not in features)
    return Data(np.where(usable, x, 0), weights, usable, others, others[1:])


def take_moments(data, axes):
    count, share = shares(data, axes)
    mean = (share * data.x).sum(axes, keepdims=True)
    var = (share * np.abs(data.x - mean) ** 2).sum(axes, keepdims=True)
    return Moments(*observed(count, mean, var))


def power(data, axes):
    """The moments about 0."""
    count, share = shares(data, axes)
    square = (share * np.abs(data.x) ** 2).sum(axes, keepdims=True)
    count, _, square = observed(count, None, square)
    return Moments(count, np.zeros_like(square), square)


def group_moments(
    data, num_groups, group_size, feature_axis, reduction_axes, moments=take_moments
):
    """The moments of the group of each feature, the feature axis at its full size."""
    size = data.x.shape[feature_axis]
    groups = num_groups if group_size is None else size // group_size
    axes = axes_of(data, (*space_of(data, reduction_axes), feature_axis))
    parts = (np.split(v, groups, feature_axis) for v in (data.x, data.weights))
    own = [
        moments(data._replace(x=x, weights=weights), axes)
        for x, weights in zip(*parts, strict=True)
    ]
    joined = (np.concatenate(v, feature_axis) for v in zip(*own, strict=True))
    return Moments(*(np.repeat(v, size // groups, feature_axis) for v in joined))


def standardize(data, own, epsilon):
    """(x - mean) / sqrt(var + epsilon); 0 where there is nothing to say."""
    xhat = (data.x - own.mean) / np.sqrt(own.var + epsilon)
    return np.where(data.usable & (own.count > 0), xhat, 0)


def normalize(data, own, scale=None, bias=None, *, epsilon=1e-6, scale_offset=0.0):
    """The output of nearly all of them."""
    scale = with_offset(scale, scale_offset)
    return affine(standardize(data, own, epsilon), scale, bias, data)


def with_offset(scale, scale_offset):
    """The factor that a stored scale stands for."""
    return None if scale is None else scale_offset + wide(scale)


def expand(parameter, data, default):
    """A parameter of the feature shape, or of the rank of x, against x."""
    if parameter is None:
        return default
    parameter = wide(parameter)
    if parameter.ndim in (0, data.x.ndim):
        return parameter
    return np.expand_dims(parameter, data.others)


def affine(xhat, scale, bias, data):
    return xhat * expand(scale, data, 1.0) + expand(bias, data, 0.0)


def shares(data, axes):
    """The weight of the reduced elements, and the part that each has of it."""
    count = data.weights.sum(axes, keepdims=True)
    return count, data.weights / np.where(count > 0, count, 1)


def space_of(data, reduction_axes):
    """The axes that a feature is reduced over: all but the first, or those given."""
    return data.space if reduction_axes is None else axes_of(data, reduction_axes)


def axes_of(data, axes):
    return tuple({axis % data.x.ndim for axis in np.atleast_1d(axes).tolist()})
