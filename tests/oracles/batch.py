"""Batch normalization: the equations, with nothing clever.

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

from oracles.parts import Data, expand, read, take_moments, wide


class Pass(NamedTuple):
    """Everything that the outputs, the statistics and the gradients are made of."""

    data: Data
    axes: tuple[int, ...]  # reduced
    count: np.ndarray  # this and the next two with reduced axes of size 1
    mean: np.ndarray
    var: np.ndarray
    inverse: np.ndarray  # 1 / sqrt(var + epsilon), of the variance that normalizes
    xhat: np.ndarray
    share: np.ndarray  # w / W, where the batch's own statistics normalize; else 0


def moments(x, *, feature_axes=-1, mask=None):
    """Count, mean and biased variance of each feature; 0 where nothing counts."""
    data = read(x, mask, feature_axes)
    own = take_moments(data, data.others)
    return tuple(value.squeeze(data.others) for value in own)


def batch_norm(x, mean, var, scale=None, bias=None, **options):
    """The output, and the running mean and variance after the update."""
    momentum = options.pop("momentum", 0.99)
    unbiased = options.pop("unbiased", False)
    own = _normalize(x, mean, var, **options)
    y = own.xhat * expand(scale, own.data, 1.0) + expand(bias, own.data, 0.0)
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
    g = np.where(own.data.usable, np.conj(expand(scale, own.data, 1.0)) * dy, 0)
    sum_g = g.sum(own.axes, keepdims=True)
    sum_gx = np.real(np.conj(own.xhat) * g).sum(own.axes, keepdims=True)
    dx = own.inverse * (g - own.share * (sum_g + own.xhat * sum_gx))
    dx = np.where(own.data.usable, dx, 0)
    return (
        dx if np.iscomplexobj(x) else dx.real,
        _collect(np.conj(own.xhat) * dy, scale, own.axes),
        _collect(dy, bias, own.axes),
    )


def _normalize(
    x, running_mean, running_var, *, use_running_average=False, epsilon=1e-5, **where
):
    data = read(x, **where)
    x, weights, usable, axes, _ = data
    count, batch_mean, batch_var = take_moments(data, axes)
    own = (count > 0) & (not use_running_average)
    mean = np.where(own, batch_mean, np.expand_dims(wide(running_mean), axes))
    var = np.where(own, batch_var, np.expand_dims(wide(running_var), axes))
    inverse = 1 / np.sqrt(var + epsilon)
    xhat = (np.where(usable, x, mean) - mean) * inverse
    share = np.where(own, weights / np.where(count > 0, count, 1), 0)
    return Pass(data, axes, count, batch_mean, batch_var, inverse, xhat, share)


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
