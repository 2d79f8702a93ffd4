"""Normalizers with the statistics of a batch; options are those of batch_norm.

State goes in and comes out as plain arrays: each gives y and the new state.
Where a feature has no valid element, the running statistics normalize and stay
as they were.
"""

import numpy as np

from oracles import parts
from oracles.batch import batch_norm, moments
from oracles.parts import (
    Moments,
    affine,
    expand,
    read,
    standardize,
    take_moments,
    wide,
)


def batch_renorm(
    x, mean, std, count, scale=None, bias=None, *, r_max, d_max, frozen=None, **options
):
    """y, and the running mean, standard deviation and count of updates.

    frozen=(r, d) holds the corrections, which have no derivative. An update that saw
    no element at all is not counted.
    """
    momentum = options.pop("momentum", 0.99)
    data, own, own_std, running = _renorm_parts(x, mean, std, **options)
    used = (own.count > 0) & (not options.get("use_running_average", False))
    center = np.where(used, own.mean, running[0])
    xhat = (data.x - center) / np.where(used, own_std, running[1])
    xhat = np.where(data.usable, xhat, 0)
    limits = {"r_max": r_max, "d_max": d_max}
    corrections = frozen or renorm_corrections(x, mean, std, **limits, **options)
    r, d = (expand(v, data, None) for v in corrections)
    xhat = xhat * np.where(used, r, 1) + np.where(used, d, 0)
    y = affine(xhat, scale, bias, data)
    new = [
        np.where(used, momentum * old + (1 - momentum) * batch, old)
        for old, batch in zip(running, (own.mean, own_std), strict=True)
    ]
    new_count = wide(count) + np.any(used)
    return y, *(value.squeeze(data.others) for value in new), new_count


def renorm_corrections(x, mean, std, *, r_max, d_max, **options):
    """r and d of each feature, from the state before the update."""
    data, own, own_std, (mean, std) = _renorm_parts(x, mean, std, **options)
    r = np.clip(own_std / std, 1 / r_max, r_max)
    # Of differences, for beside large means float64 loses digits as well.
    apart = take_moments(data._replace(x=data.x - mean), data.others).mean
    d = np.clip(apart / std, -d_max, d_max)
    r, d = np.where(own.count > 0, r, 1), np.where(own.count > 0, d, 0)
    return r.squeeze(data.others), d.squeeze(data.others)


def ghost_batch_norm(
    x,
    mean,
    var,
    scale=None,
    bias=None,
    *,
    virtual_batch_size,
    stats_rule="pooled",
    **options,
):
    """y, and the running mean and variance; contiguous ghosts, each by itself."""
    if options.get("use_running_average", False):
        return batch_norm(x, mean, var, scale, bias, **options)
    data = read(x, options.pop("mask", None), options.get("feature_axes", -1))
    batch = data.others[0]
    ghosts, rest = divmod(data.x.shape[batch], virtual_batch_size)
    assert rest == 0, (x.shape, virtual_batch_size)
    # Not data.x, from which what a mask hides and is not finite is gone.
    ghosts = max(ghosts, 1)  # an empty batch is one
    parts = [np.split(wide(v), ghosts, batch) for v in (x, data.weights)]
    parts = list(zip(*parts, strict=True))
    outputs = [batch_norm(g, mean, var, mask=w, **options)[0] for g, w in parts]
    y = affine(np.concatenate(outputs, batch), scale, bias, data)
    if stats_rule == "pooled":
        return y, *batch_norm(x, mean, var, mask=data.weights, **options)[1:]
    if stats_rule == "sequential":
        for g, w in parts:
            _, mean, var = batch_norm(g, mean, var, mask=w, **options)
        return y, mean, var
    assert stats_rule == "mean", stats_rule
    momentum = options.pop("momentum", 0.99)
    axes = {"feature_axes": options.get("feature_axes", -1)}
    filled = np.array([moments(g, mask=w, **axes)[0] > 0 for g, w in parts])
    zeros = np.zeros_like(mean), np.zeros_like(var)
    own = [batch_norm(g, *zeros, mask=w, momentum=0, **options)[1:] for g, w in parts]
    new = []
    for old, values in zip((mean, var), zip(*own, strict=True), strict=True):
        average = (filled * values).sum(0) / np.maximum(filled.sum(0), 1)
        moved = momentum * wide(old) + (1 - momentum) * average
        new.append(np.where(filled.any(0), moved, old))
    return y, *new


def mean_only_batch_norm(x, mean, bias=None, **options):
    """y = x - mean + bias, and the running mean."""
    data, batch, _, new = running_or_own(x, mean, np.ones_like(mean, float), options)
    xhat = np.where(data.usable, data.x - batch.mean, 0)
    return affine(xhat, None, bias, data), new[0]


def running_norm(
    x,
    count,
    mean,
    var,
    *,
    update=True,
    max_abs=np.inf,
    max_count=np.inf,
    epsilon=1e-8,
    feature_axes=-1,
    mask=None,
    frozen=None,
):
    """y, and the moments of the stream: its count, mean and variance.

    frozen holds these, which have no derivative.
    """
    data = read(x, mask, feature_axes)
    options = {"feature_axes": feature_axes, "mask": mask, "max_count": max_count}
    if frozen is None and update:
        frozen = stream_moments(x, count, mean, var, **options)
    count, mean, var = parts.observed(*(frozen or map(wide, (count, mean, var))))
    own = Moments(*(expand(v, data, None) for v in (np.ones_like(var), mean, var)))
    y = standardize(data, own, epsilon)
    if max_abs < np.inf:
        y = np.clip(y, -max_abs, max_abs)
    return y, count, mean, var


def stream_moments(x, count, mean, var, *, max_count=np.inf, **options):
    """The moments of a stream of which x is the newest part."""
    count, mean, var = (wide(value) for value in (count, mean, var))
    n, own_mean, own_var = moments(x, **options)
    old = np.minimum(count, max_count)
    count = old + n
    share, apart = n / np.where(count > 0, count, 1), own_mean - mean
    between = np.abs(apart) ** 2 * share * (1 - share)
    var = np.where(n > 0, var * (1 - share) + own_var * share + between, var)
    return count, np.where(n > 0, mean + share * apart, mean), var


def recurrent_batch_norm(x, mean, var, step, scale=None, bias=None, **options):
    """Batch norm with the statistics of this step, or of the last one that has any."""
    mean, var = wide(mean).copy(), wide(var).copy()
    step = min(max(int(step), 0), len(mean) - 1)
    y, *new = batch_norm(x, mean[step], var[step], scale, bias, **options)
    mean = mean.astype(np.result_type(mean, new[0]))
    mean[step], var[step] = new
    return y, mean, var


def running_or_own(x, mean, var, options):
    """The data, the moments that normalize, epsilon, and the new running ones."""
    axes, mask = options.get("feature_axes", -1), options.get("mask")
    data = read(x, mask, axes)
    count, *batch = moments(x, feature_axes=axes, mask=mask)
    used = (count > 0) & (not options.get("use_running_average", False))
    used = [
        expand(np.where(used, own, running), data, None)
        for own, running in zip(batch, (mean, var), strict=True)
    ]
    everywhere = np.ones_like(used[1])  # the count: there always are such moments
    new = batch_norm(x, mean, var, **options)[1:]
    return data, Moments(everywhere, *used), options.get("epsilon", 1e-5), new


def _renorm_parts(x, mean, std, *, use_running_average=False, epsilon=1e-5, **where):
    data = read(x, **where)
    own = take_moments(data, data.others)
    running = tuple(np.expand_dims(wide(v), data.others) for v in (mean, std))
    return data, own, np.sqrt(own.var + epsilon), running
