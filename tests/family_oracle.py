"""The per-example normalizers in float64 NumPy: the equations, with nothing clever.

In the words of SEMANTICS.md, with the arguments of the functions that they stand for.
A mask is weights (bool and integer: 0 and 1), and weighs the moments; a masked element
that is not finite comes out as the mean would, and an example or a group without valid
elements as `bias`. Examples lie along the first axis that is no feature axis, space
along the others. `directional` gives derivatives. batch_oracle.py has the normalizers
with the statistics of a batch, made of the same parts.
"""

import math
from typing import NamedTuple

import numpy as np
import oracle
from oracle import wide


def directional(f, arguments, directions, step=1e-6):
    """The derivative of f(*arguments) along directions (None: held), numerically."""

    def at(move):
        pairs = zip(arguments, directions, strict=True)
        return f(*(a if d is None else wide(a) + move * wide(d) for a, d in pairs))

    return (at(step) - at(-step)) / (2 * step)


def layer_norm(
    x,
    scale=None,
    bias=None,
    *,
    reduction_axes=-1,
    feature_axes=-1,
    mask=None,
    **options,
):
    """(x - mean) / sqrt(var + epsilon); the parameters lie along `feature_axes`."""
    data = read(x, mask, feature_axes)
    own = take_moments(data, _axes(data, reduction_axes))
    return normalize(data, own, scale, bias, **options)


def rms_norm(
    x, scale=None, *, reduction_axes=-1, feature_axes=-1, mask=None, **options
):
    """x / sqrt(mean |x|^2 + epsilon) * (scale_offset + scale)."""
    data = read(x, mask, feature_axes)
    own = power(data, _axes(data, reduction_axes))
    return normalize(data, own, scale, **options)


def gated_rms_norm(
    x,
    gate,
    scale=None,
    *,
    gate_first=False,
    activation="silu",
    num_groups=None,
    group_size=None,
    reduction_axes=-1,
    feature_axes=-1,
    epsilon=1e-6,
    scale_offset=0.0,
    mask=None,
):
    """rms_norm(x) * scale * a, or rms_norm(x * a) * scale, by group of features.

    Mamba 2, section 7, gates first; gated DeltaNet, section 3.4, normalizes first.
    """
    data = read(x, mask, feature_axes)
    gate = wide(gate)
    usable = data.usable & ((data.weights > 0) | np.isfinite(gate))
    gate = np.where(usable, gate, 0)
    a = (1 + np.tanh(gate / 2)) / 2 * (gate if activation == "silu" else 1)
    a = np.where(usable, a, 0)
    if gate_first:
        data, a = data._replace(x=data.x * a), 1
    if num_groups is None and group_size is None:
        own = power(data, _axes(data, reduction_axes))
    else:
        groups = num_groups, group_size, feature_axes, reduction_axes
        own = group_moments(data, *groups, moments=power)
    scale = with_offset(scale, scale_offset)
    return affine(standardize(data, own, epsilon) * a, scale, None, data)


def group_norm(
    x,
    scale=None,
    bias=None,
    *,
    num_groups=32,
    group_size=None,
    reduction_axes=None,
    feature_axes=-1,
    mask=None,
    **options,
):
    """Each group of neighbouring features over `reduction_axes` (all but the batch)."""
    data = read(x, mask, feature_axes)
    own = group_moments(data, num_groups, group_size, feature_axes, reduction_axes)
    return normalize(data, own, scale, bias, **options)


def causal_group_norm(
    x,
    scale=None,
    bias=None,
    *,
    time_axis=1,
    num_groups=1,
    group_size=None,
    reduction_axes=None,
    feature_axes=-1,
    epsilon=1e-6,
    scale_offset=0.0,
    mask=None,
):
    """Each step with the moments of group norm, over the prefix that it ends."""
    data = read(x, mask, feature_axes)
    time = time_axis % data.x.ndim
    space = data.space if reduction_axes is None else np.atleast_1d(reduction_axes)
    axes = (time, *space)

    def part(start, stop):
        at = (np.s_[:],) * time + (np.s_[start:stop],)
        own = (v[at] for v in (data.x, data.weights, data.usable))
        return Data(*own, data.others, data.space)

    steps = [np.zeros_like(part(0, 0).x)]
    for t in range(data.x.shape[time]):
        prefix = part(0, t + 1)
        own = group_moments(prefix, num_groups, group_size, feature_axes, axes)
        steps.append(standardize(part(t, t + 1), own, epsilon))
    scale = with_offset(scale, scale_offset)
    return affine(np.concatenate(steps, time), scale, bias, data)


def instance_norm(
    x,
    scale=None,
    bias=None,
    *,
    reduction_axes=None,
    feature_axes=-1,
    mask=None,
    **options,
):
    """Each feature of each example over its own space."""
    data = read(x, mask, feature_axes)
    own = take_moments(data, _space(data, reduction_axes))
    return normalize(data, own, scale, bias, **options)


def graph_norm(
    x,
    mean_scale=None,
    scale=None,
    bias=None,
    *,
    segment_ids,
    num_segments,
    feature_axes=-1,
    mask=None,
    **options,
):
    """(x - mean_scale * mean) / sqrt(mean of its square + epsilon), by segment."""
    data = read_segments(x, mask, feature_axes, segment_ids, num_segments)

    def moments(part, axes):
        count, share = _shares(part, axes)
        mean = (share * part.x).sum(axes, keepdims=True)
        mean = expand(mean_scale, data, 1.0) * mean
        square = (share * np.abs(part.x - mean) ** 2).sum(axes, keepdims=True)
        return Moments(*oracle.observed(count, mean, square))

    own = segment_moments(data, segment_ids, data.others, moments)
    return normalize(data, own, scale, bias, **options)


def segment_layer_norm(
    x,
    scale=None,
    bias=None,
    *,
    segment_ids,
    num_segments,
    reduction_axes=-1,
    feature_axes=-1,
    mask=None,
    **options,
):
    """(x - mean) / sqrt(var + epsilon), over positions of one id and other axes."""
    data = read_segments(x, mask, feature_axes, segment_ids, num_segments)
    axes = (*range(np.ndim(segment_ids)), *np.atleast_1d(reduction_axes))
    own = segment_moments(data, segment_ids, _axes(data, axes), take_moments)
    return normalize(data, own, scale, bias, **options)


def segment_rms_norm(
    x,
    scale=None,
    *,
    segment_ids,
    num_segments,
    reduction_axes=-1,
    feature_axes=-1,
    mask=None,
    **options,
):
    """x / sqrt(mean |x|^2 + epsilon), over positions of one id and other axes."""
    data = read_segments(x, mask, feature_axes, segment_ids, num_segments)
    axes = (*range(np.ndim(segment_ids)), *np.atleast_1d(reduction_axes))
    own = segment_moments(data, segment_ids, _axes(data, axes), power)
    return normalize(data, own, scale, **options)


def reversible_instance_norm(
    x,
    z,
    scale=None,
    bias=None,
    *,
    time_axis=1,
    feature_axes=-1,
    epsilon=1e-5,
    scale_offset=0.0,
    mask=None,
):
    """Each series over time; and z brought to where x was."""
    data = read(x, mask, feature_axes)
    own = take_moments(data, (time_axis % data.x.ndim,))
    scale = with_offset(scale, scale_offset)
    y = affine(standardize(data, own, epsilon), scale, bias, data)
    scale, bias = expand(scale, data, 1.0), expand(bias, data, 0.0)
    return y, (wide(z) - bias) / scale * np.sqrt(own.var + epsilon) + own.mean


def filter_response_norm(
    x,
    scale,
    bias,
    threshold,
    *,
    epsilon=1e-6,
    learned_epsilon=None,
    reduction_axes=None,
    feature_axes=-1,
    mask=None,
):
    """max(scale * x / sqrt(mean x^2 + epsilon + |learned|) + bias, threshold)."""
    data = read(x, mask, feature_axes)
    epsilon = epsilon + np.abs(expand(learned_epsilon, data, 0.0))
    own = power(data, _space(data, reduction_axes))
    xhat = standardize(data, own, epsilon)
    y = affine(xhat, scale, bias, data)
    return y if threshold is None else np.maximum(y, expand(threshold, data, None))


def global_response_norm(
    x, scale, bias, *, epsilon=1e-6, reduction_axes=None, feature_axes=-1, mask=None
):
    """scale * x * n + bias + x, n the share of each feature in the norms over space.

    Features without valid elements are not among those that the mean is taken of.
    """
    data = read(x, mask, feature_axes)
    space = _space(data, reduction_axes)
    square = (data.weights * np.abs(data.x) ** 2).sum(space, keepdims=True)
    count = data.weights.sum(space, keepdims=True)
    count, _, square = oracle.observed(count, None, square)
    seen = count > 0
    features = _axes(data, feature_axes)
    number = np.maximum(seen.sum(features, keepdims=True), 1)
    mean = np.sqrt(square).sum(features, keepdims=True) / number
    share = np.sqrt(square) / (mean + epsilon)
    return affine(data.x * share, scale, bias, data) + data.x


def unit_norm(x, *, axes=-1, epsilon=0.0):
    """x / sqrt(sum |x|^2 + epsilon); 0 where that is 0."""
    data = read(x, None, axes)
    square = np.sum(np.abs(data.x) ** 2, _axes(data, axes), keepdims=True)
    square = oracle.observed(1.0, None, square)[-1] + epsilon
    return data.x / np.sqrt(np.where(square == 0, 1, square))


def dynamic_tanh(x, alpha, scale, bias, *, feature_axes=-1):
    """scale * tanh(alpha * x) + bias."""
    data = read(x, None, feature_axes)
    xhat = np.tanh(expand(alpha, data, 1.0) * data.x)
    return affine(xhat, scale, bias, data)


def dynamic_erf(x, alpha, shift, scale, bias, *, feature_axes=-1):
    """scale * erf(alpha * x + shift) + bias."""
    data = read(x, None, feature_axes)
    bent = expand(alpha, data, 1.0) * data.x + expand(shift, data, 0.0)
    return affine(np.vectorize(math.erf, otypes="d")(bent), scale, bias, data)


def seed_norm(
    x,
    alpha,
    beta,
    scale,
    *,
    num_heads=1,
    reduction_axes=-1,
    feature_axes=-1,
    epsilon=1e-6,
    scale_offset=0.0,
    mask=None,
):
    """(scale + alpha * tanh(sum(beta * x))) * x / sqrt(mean x^2 + epsilon)."""
    data = read(x, mask, feature_axes)
    axes = _axes(data, reduction_axes)
    xhat = standardize(data, power(data, axes), epsilon)
    products = np.where(data.weights > 0, data.x, 0) * expand(beta, data, 1.0)
    # with several heads, of the one feature axis
    axis = np.atleast_1d(feature_axes)[0] if num_heads > 1 else axes[0]
    heads = np.split(products, num_heads, axis)
    sums = (np.broadcast_to(h.sum(axes, keepdims=True), h.shape) for h in heads)
    gate = np.tanh(np.concatenate(list(sums), axis))
    scale = expand(with_offset(scale, scale_offset), data, 1.0)
    return xhat * (scale + expand(alpha, data, 1.0) * gate)


def evo_norm_s0(
    x,
    v,
    scale,
    bias,
    *,
    num_groups=32,
    epsilon=1e-5,
    reduction_axes=None,
    feature_axes=-1,
    mask=None,
):
    """scale * x * sigmoid(v * x) / sqrt(group variance + epsilon) + bias."""
    data = read(x, mask, feature_axes)
    own = group_moments(data, num_groups, None, feature_axes, reduction_axes)
    var = np.where(own.count > 0, own.var, np.inf)
    sigmoid = (1 + np.tanh(expand(v, data, 1.0) * data.x / 2)) / 2
    return affine(data.x * sigmoid / np.sqrt(var + epsilon), scale, bias, data)


# What they are made of. Moments and parameters have the rank of x.


class Data(NamedTuple):
    x: np.ndarray  # 0 where it is not usable
    weights: np.ndarray
    usable: np.ndarray  # False where the mask hides what is not finite
    others: tuple[int, ...]  # the axes that are no feature axes
    space: tuple[int, ...]  # those but the first


class Moments(NamedTuple):
    count: np.ndarray
    mean: np.ndarray
    var: np.ndarray  # biased


def read(x, mask, feature_axes):
    x = wide(x)
    mask = np.ones(()) if mask is None else np.asarray(mask)
    weights = mask != 0 if mask.dtype.kind in "biu" else mask
    weights = np.broadcast_to(weights.astype(np.float64), x.shape)
    usable = (weights > 0) | np.isfinite(x)
    features = {axis % x.ndim for axis in np.atleast_1d(feature_axes)}
    others = tuple(axis for axis in range(x.ndim) if axis not in features)
    return Data(np.where(usable, x, 0), weights, usable, others, others[1:])


def take_moments(data, axes):
    count, share = _shares(data, axes)
    mean = (share * data.x).sum(axes, keepdims=True)
    var = (share * np.abs(data.x - mean) ** 2).sum(axes, keepdims=True)
    return Moments(*oracle.observed(count, mean, var))


def power(data, axes):
    """The moments about 0."""
    count, share = _shares(data, axes)
    square = (share * np.abs(data.x) ** 2).sum(axes, keepdims=True)
    count, _, square = oracle.observed(count, None, square)
    return Moments(count, np.zeros_like(square), square)


def read_segments(x, mask, feature_axes, segment_ids, num_segments):
    """What is in no segment is masked."""
    ids = _of_positions(segment_ids, np.ndim(x))
    mask = np.ones((), bool) if mask is None else np.asarray(mask)
    inside = (ids >= 0) & (ids < num_segments)
    return read(x, np.where(inside, mask, np.zeros_like(mask)), feature_axes)


def segment_moments(data, segment_ids, axes, moments):
    """Those of the segment that each position is in."""
    ids = _of_positions(segment_ids, data.x.ndim)
    own = Moments(*(np.zeros_like(data.x, t) for t in (float, data.x.dtype, float)))
    for segment in np.unique(ids):
        inside = ids == segment
        part = data._replace(weights=np.where(inside, data.weights, 0))
        parts = zip(moments(part, axes), own, strict=True)
        own = Moments(*(np.where(inside, new, old) for new, old in parts))
    return own


def _of_positions(segment_ids, ndim):
    ids = np.asarray(segment_ids)
    return ids.reshape(*ids.shape, *(1,) * (ndim - ids.ndim))


def group_moments(
    data, num_groups, group_size, feature_axis, reduction_axes, moments=take_moments
):
    """The moments of the group of each feature, the feature axis at its full size."""
    size = data.x.shape[feature_axis]
    groups = num_groups if group_size is None else size // group_size
    axes = _axes(data, (*_space(data, reduction_axes), feature_axis))
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


def _shares(data, axes):
    """The weight of the reduced elements, and the part that each has of it."""
    count = data.weights.sum(axes, keepdims=True)
    return count, data.weights / np.where(count > 0, count, 1)


def _space(data, reduction_axes):
    """The axes that a feature is reduced over: all but the first, or those given."""
    return data.space if reduction_axes is None else _axes(data, reduction_axes)


def _axes(data, axes):
    return tuple({axis % data.x.ndim for axis in np.atleast_1d(axes).tolist()})
