"""The normalizers with the statistics of a batch, alone or mixed, in float64 NumPy.

What family_oracle.py says holds here too. State goes in and comes out as plain arrays:
each gives y and the new state. **options are those of oracle.batch_norm:
use_running_average, momentum, epsilon, feature_axes, mask, unbiased. Where a feature
has no valid element, the running statistics normalize and stay as they were.
"""

import numpy as np
import oracle
from family_oracle import (
    Moments,
    affine,
    expand,
    instance_norm,
    read,
    standardize,
    take_moments,
)
from oracle import batch_norm, moments, wide


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
    data, batch, epsilon, new = _batch(x, mean, var, options)
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


def mean_only_batch_norm(x, mean, bias=None, **options):
    """y = x - mean + bias, and the running mean."""
    data, batch, _, new = _batch(x, mean, np.ones_like(mean, float), options)
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
    count, mean, var = oracle.observed(*(frozen or map(wide, (count, mean, var))))
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


def evo_norm_b0(x, running_var, v, scale, bias, **options):
    """y, and the running variance: x over the larger of two deviations."""
    zero = np.zeros_like(running_var, float)
    data, batch, epsilon, new = _batch(x, zero, running_var, options)
    own = take_moments(data, data.space)
    side = expand(v, data, 1.0) * data.x + np.sqrt(own.var + epsilon)
    divisor = np.maximum(np.sqrt(batch.var + epsilon), side)
    _, _, divisor = oracle.observed(own.count, None, divisor)
    xhat = data.x / divisor
    return affine(np.where(own.count > 0, xhat, 0), scale, bias, data), new[1]


def switchable_norm(
    x, mean, var, mean_logits, var_logits, scale=None, bias=None, **options
):
    """y, and the running mean and variance; instance, layer and batch moments mixed.

    A feature of an example without valid elements comes out as `bias`.
    """
    data, batch, epsilon, new = _batch(x, mean, var, options)
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
    data, batch, epsilon, new = _batch(x, mean, var, options)
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


def _batch(x, mean, var, options):
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


def _renorm_parts(
    x,
    mean,
    std,
    *,
    use_running_average=False,
    epsilon=1e-5,
    feature_axes=-1,
    mask=None,
):
    data = read(x, mask, feature_axes)
    own = take_moments(data, data.others)
    running = tuple(np.expand_dims(wide(v), data.others) for v in (mean, std))
    return data, own, np.sqrt(own.var + epsilon), running


def _shrink(value, limit):
    """The value brought nearer to 0 by as much as the limit."""
    return np.sign(value) * np.maximum(np.abs(value) - limit, 0)


def _softmax(logits):
    logits = wide(logits)
    powers = np.exp(logits - np.max(logits))
    return powers / powers.sum()
