"""Batch normalization in float64 NumPy: the equations, with nothing clever.

Weights w (a mask is weights 0 and 1), W = sum w over the reduced axes:

    mean = sum(w x) / W              var = sum(w |x - mean|^2) / W
    xhat = (x - mean) / sqrt(var + epsilon)          y = scale xhat + bias

and for a cotangent dy of y, with g = conj(scale) dy,

    dx = (g - w/W sum(g) - w/W xhat sum(Re(conj(xhat) g))) / sqrt(var + epsilon)
    dscale = sum(conj(xhat) dy)      dbias = sum(dy)

With running statistics, or where W = 0, the w/W terms are gone. An element of
weight 0 that is not finite comes out as `bias`, whatever the other elements are.
Gradients point uphill: of a complex argument they are the conjugate of JAX's.
"""

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


class Pass(NamedTuple):
    """Everything that the outputs, the statistics and the gradients are made of."""

    axes: tuple[int, ...]  # reduced
    count: np.ndarray  # this and the next two with reduced axes of size 1
    mean: np.ndarray
    var: np.ndarray
    inverse: np.ndarray  # 1 / sqrt(var + epsilon), of the variance that normalizes
    xhat: np.ndarray
    share: np.ndarray  # w / W, where the batch's own statistics normalize; else 0
    usable: np.ndarray  # False where the element comes out as `bias`


def moments(x, *, feature_axes=-1, mask=None):
    """Count, mean and biased variance of each feature; 0 where nothing counts."""
    x, weights, axes = _prepare(x, feature_axes, mask)
    return tuple(v.squeeze(axes) for v in _moments(x, weights, axes))


def batch_norm(x, mean, var, scale=None, bias=None, **options):
    """The output, and the running mean and variance after the update."""
    momentum = options.pop("momentum", 0.99)
    unbiased = options.pop("unbiased", False)
    own = _normalize(x, mean, var, **options)
    y = own.xhat * _expand(scale, own, 1.0) + _expand(bias, own, 0.0)
    if options.get("use_running_average", False):
        return y, wide(mean), wide(var)
    factor = own.count / np.maximum(own.count - 1, 1) if unbiased else 1.0
    factor = np.where(own.count > 1, factor, 1.0)
    new = []
    for running, batch in ((mean, own.mean), (var, own.var * factor)):
        running = np.expand_dims(wide(running), own.axes)
        moved = momentum * running + (1 - momentum) * batch
        new.append(np.where(own.count > 0, moved, running).squeeze(own.axes))
    return y, *new


def batch_norm_gradients(dy, x, mean, var, scale=None, bias=None, **options):
    """The gradients of sum(Re(conj(dy) y)) in x, scale and bias (None for None)."""
    own = _normalize(x, mean, var, **options)
    dy = wide(dy)
    g = np.where(own.usable, np.conj(_expand(scale, own, 1.0)) * dy, 0)
    sum_g = g.sum(own.axes, keepdims=True)
    sum_gx = np.real(np.conj(own.xhat) * g).sum(own.axes, keepdims=True)
    dx = own.inverse * (g - own.share * (sum_g + own.xhat * sum_gx))
    dx = np.where(own.usable, dx, 0)
    return (
        dx if np.iscomplexobj(x) else dx.real,
        _collect(np.conj(own.xhat) * dy, scale, own.axes),
        _collect(dy, bias, own.axes),
    )


def observed(count, mean, var):
    """The moments that all is made of, as they are: rounding.py has other ones.

    The mean is None where the moments are those about 0.
    """
    return count, mean, var


def _prepare(x, feature_axes, mask):
    x = wide(x)
    features = {axis % x.ndim for axis in np.atleast_1d(feature_axes)}
    axes = tuple(axis for axis in range(x.ndim) if axis not in features)
    mask = np.ones(()) if mask is None else np.asarray(mask)
    weights = mask != 0 if mask.dtype.kind in "biu" else mask
    return x, np.broadcast_to(weights.astype(np.float64), x.shape), axes


def _moments(x, weights, axes):
    x = np.where(weights > 0, x, 0)
    count = weights.sum(axes, keepdims=True)
    divisor = np.where(count > 0, count, 1)
    mean = (weights * x).sum(axes, keepdims=True) / divisor
    var = (weights * np.abs(x - mean) ** 2).sum(axes, keepdims=True) / divisor
    return observed(count, mean, var)


def _normalize(
    x,
    running_mean,
    running_var,
    *,
    use_running_average=False,
    epsilon=1e-5,
    feature_axes=-1,
    mask=None,
):
    x, weights, axes = _prepare(x, feature_axes, mask)
    count, batch_mean, batch_var = _moments(x, weights, axes)
    own = (count > 0) & (not use_running_average)
    mean = np.where(own, batch_mean, np.expand_dims(wide(running_mean), axes))
    var = np.where(own, batch_var, np.expand_dims(wide(running_var), axes))
    inverse = 1 / np.sqrt(var + epsilon)
    usable = (weights > 0) | np.isfinite(x)
    xhat = (np.where(usable, x, mean) - mean) * inverse
    share = np.where(own, weights / np.where(count > 0, count, 1), 0)
    return Pass(axes, count, batch_mean, batch_var, inverse, xhat, share, usable)


def _expand(parameter, own, default):
    """A parameter of the feature shape, or of the rank of x, against x."""
    if parameter is None:
        return default
    parameter = wide(parameter)
    if parameter.ndim == own.xhat.ndim:
        return parameter
    return np.expand_dims(parameter, own.axes)


def _collect(total, parameter, axes):
    """The gradient of a parameter from that of each use of it."""
    if parameter is None:
        return None
    parameter = np.asarray(parameter)
    if parameter.ndim == total.ndim:
        shared = tuple(i for i, size in enumerate(parameter.shape) if size == 1)
        total = total.sum(shared, keepdims=True)
    else:
        total = total.sum(axes)
    return total if np.iscomplexobj(parameter) else total.real
