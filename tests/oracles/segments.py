"""Normalizers of the segments of each row."""

import numpy as np

from oracles import parts
from oracles.parts import (
    Moments,
    axes_of,
    expand,
    normalize,
    power,
    read,
    shares,
    take_moments,
)


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
        count, share = shares(part, axes)
        mean = (share * part.x).sum(axes, keepdims=True)
        mean = expand(mean_scale, data, 1.0) * mean
        square = (share * np.abs(part.x - mean) ** 2).sum(axes, keepdims=True)
        return Moments(*parts.observed(count, mean, square))

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
    own = segment_moments(data, segment_ids, axes_of(data, axes), take_moments)
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
    own = segment_moments(data, segment_ids, axes_of(data, axes), power)
    return normalize(data, own, scale, **options)


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
