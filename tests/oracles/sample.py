"""Normalizers of each example."""

import math

import numpy as np

from oracles import parts
from oracles.parts import (
    Data,
    affine,
    axes_of,
    expand,
    group_moments,
    normalize,
    power,
    read,
    space_of,
    standardize,
    take_moments,
    wide,
    with_offset,
)


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
    own = take_moments(data, axes_of(data, reduction_axes))
    return normalize(data, own, scale, bias, **options)


def rms_norm(
    x, scale=None, *, reduction_axes=-1, feature_axes=-1, mask=None, **options
):
    """x / sqrt(mean |x|^2 + epsilon) * (scale_offset + scale)."""
    data = read(x, mask, feature_axes)
    own = power(data, axes_of(data, reduction_axes))
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
        own = power(data, axes_of(data, reduction_axes))
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
    own = take_moments(data, space_of(data, reduction_axes))
    return normalize(data, own, scale, bias, **options)


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
    own = power(data, space_of(data, reduction_axes))
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
    space = space_of(data, reduction_axes)
    square = (data.weights * np.abs(data.x) ** 2).sum(space, keepdims=True)
    count = data.weights.sum(space, keepdims=True)
    count, _, square = parts.observed(count, None, square)
    seen = count > 0
    features = axes_of(data, feature_axes)
    number = np.maximum(seen.sum(features, keepdims=True), 1)
    mean = np.sqrt(square).sum(features, keepdims=True) / number
    share = np.sqrt(square) / (mean + epsilon)
    return affine(data.x * share, scale, bias, data) + data.x


def unit_norm(x, *, axes=-1, epsilon=0.0):
    """x / sqrt(sum |x|^2 + epsilon); 0 where that is 0."""
    data = read(x, None, axes)
    square = np.sum(np.abs(data.x) ** 2, axes_of(data, axes), keepdims=True)
    square = parts.observed(1.0, None, square)[-1] + epsilon
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
    axes = axes_of(data, reduction_axes)
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
