"""Normalizers of a batch that look at each example too, likewise."""

import numpy as np

from oracles import parts
from oracles.batch import batch_norm
from oracles.batch_family import running_or_own
from oracles.parts import Moments, affine, expand, read, standardize, take_moments, wide
from oracles.sample import instance_norm


def virtual_batch_norm(
    x,
    ref_mean,
    ref_var,
    scale=None,
    bias=None,
    *,
    reference_size,
    include_self=True,
    epsilon=1e-5,
    feature_axes=-1,
    mask=None,
):
    """Each example with the reference batch, of which it is one more example."""
    data = read(x, mask, feature_axes)
    own = take_moments(data, data.space)
    mean, var = (expand(v, data, None) for v in (ref_mean, ref_var))
    share = np.where(own.count > 0, include_self / (reference_size + 1), 0)
    center = (1 - share) * mean + share * own.mean
    spread = (1 - share) * (var + np.abs(mean - center) ** 2)
    spread = spread + share * (own.var + np.abs(own.mean - center) ** 2)
    mixed = Moments(np.ones_like(spread), center, spread)
    return affine(standardize(data, mixed, epsilon), scale, bias, data)


def adaptive_batch_norm(
    x, mean, var, scale=None, bias=None, *, strength=4.0, **options
):
    """y, and the running mean and variance; each example corrected by its own.

    The size of an example's space is its valid elements, or their weight.
    """
    data, batch, epsilon, new = running_or_own(x, mean, var, options)
    own = take_moments(data, data.space)
    size = np.maximum(own.count, 2)
    own_var = own.var * size / (size - 1)
    noise = batch.var + epsilon
    mean_move = _shrink(own.mean - batch.mean, strength * np.sqrt(noise / size))
    limit = strength * noise * np.sqrt(2 / (size - 1))
    var_move = _shrink(own_var - batch.var, limit)
    enough = own.count >= 2
    center = np.where(enough, batch.mean + mean_move, batch.mean)
    spread = np.where(enough, np.maximum(batch.var + var_move, 0), batch.var)
    mixed = Moments(np.ones_like(spread), center, spread)
    return affine(standardize(data, mixed, epsilon), scale, bias, data), *new


def evo_norm_b0(x, running_var, v, scale, bias, **options):
    """y, and the running variance: x over the larger of two deviations."""
    zero = np.zeros_like(running_var, float)
    data, batch, epsilon, new = running_or_own(x, zero, running_var, options)
    own = take_moments(data, data.space)
    side = expand(v, data, 1.0) * data.x + np.sqrt(own.var + epsilon)
    divisor = np.maximum(np.sqrt(batch.var + epsilon), side)
    _, _, divisor = parts.observed(own.count, None, divisor)
    xhat = data.x / divisor
    return affine(np.where(own.count > 0, xhat, 0), scale, bias, data), new[1]


def switchable_norm(
    x, mean, var, mean_logits, var_logits, scale=None, bias=None, **options
):
    """y, and the running mean and variance; instance, layer and batch moments mixed.

    A feature of an example without valid elements comes out as `bias`.
    """
    data, batch, epsilon, new = running_or_own(x, mean, var, options)
    own = take_moments(data, data.space)
    everything = tuple(i for i in range(data.x.ndim) if i != data.others[0])
    layer = take_moments(data, everything)
    kinds = (own, layer, batch)
    center = sum(a * k.mean for a, k in zip(_softmax(mean_logits), kinds, strict=True))
    spread = sum(b * k.var for b, k in zip(_softmax(var_logits), kinds, strict=True))
    xhat = standardize(data, Moments(own.count, center, spread), epsilon)
    return affine(xhat, scale, bias, data), *new


def batch_instance_norm(x, mean, var, gate, scale=None, bias=None, **options):
    """y of gate * batch norm + (1 - gate) * instance norm, and the running ones."""
    data, batch, epsilon, new = running_or_own(x, mean, var, options)
    gate = expand(gate, data, None)
    own = standardize(data, take_moments(data, data.space), epsilon)
    xhat = gate * standardize(data, batch, epsilon) + (1 - gate) * own
    return affine(xhat, scale, bias, data), *new


def instance_batch_norm(
    x, mean, var, scale=None, bias=None, *, instance_features, **options
):
    """y, and the running mean and variance of the features after the first ones."""
    mask, axis = options.pop("mask", None), options.get("feature_axes", -1)
    data = read(x, mask, axis)
    parts = [np.split(wide(v), [instance_features], axis) for v in (x, data.weights)]
    (first, x), (first_weights, weights) = parts
    own = {"epsilon": options.get("epsilon", 1e-5), "feature_axes": axis}
    first = instance_norm(first, mask=first_weights, **own)
    y, *new = batch_norm(x, mean, var, mask=weights, **options)
    return affine(np.concatenate([first, y], axis), scale, bias, data), *new


def _shrink(value, limit):
    """The value brought nearer to 0 by as much as the limit."""
    return np.sign(value) * np.maximum(np.abs(value) - limit, 0)


def _softmax(logits):
    logits = wide(logits)
    powers = np.exp(logits - np.max(logits))
    return powers / powers.sum()
