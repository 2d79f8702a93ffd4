"""The normalizers that are not the core's one rule, for tests: a table of them."""

from collections.abc import Callable
from typing import NamedTuple

import family_oracle
import numpy as np
from drawing import draw
from family_oracle import affine, expand, group_moments, power, read

import jaxnorm

# The oracle's functions take no mask. These do, and are made of the same parts.


def masked_filter_response(x, scale, bias, threshold, *, mask, epsilon, feature_axes):
    data = read(x, mask, feature_axes)
    xhat = family_oracle.standardize(data, power(data, data.space), epsilon)
    y = affine(xhat, scale, bias, data)
    return np.maximum(y, expand(threshold, data, -np.inf))


def masked_global_response(x, scale, bias, *, mask, epsilon, feature_axes):
    data = read(x, mask, feature_axes)
    square = (data.weights * np.abs(data.x) ** 2).sum(data.space, keepdims=True)
    seen = data.weights.sum(data.space, keepdims=True) > 0
    features = tuple(i for i in range(data.x.ndim) if i not in data.others)
    number = np.maximum(seen.sum(features, keepdims=True), 1)
    mean = np.sqrt(square).sum(features, keepdims=True) / number
    share = np.sqrt(square) / (mean + epsilon)
    return affine(data.x * share, scale, bias, data) + data.x


def masked_evo_s0(x, v, scale, bias, *, mask, epsilon, feature_axes, num_groups):
    data = read(x, mask, feature_axes)
    own = group_moments(data, num_groups, None, feature_axes, None)
    var = np.where(own.count > 0, own.var, np.inf)
    sigmoid = (1 + np.tanh(expand(v, data, 1.0) * data.x / 2)) / 2
    return affine(data.x * sigmoid / np.sqrt(var + epsilon), scale, bias, data)


class Norm(NamedTuple):
    function: Callable
    reference: Callable
    masked: Callable | None
    parameters: dict  # the mean of each, to draw it
    options: dict


NORMS = {
    "filter response": Norm(
        jaxnorm.filter_response_norm,
        family_oracle.filter_response_norm,
        masked_filter_response,
        {"scale": 1, "bias": 0, "threshold": -0.5},
        {"epsilon": 0.03},
    ),
    "global response": Norm(
        jaxnorm.global_response_norm,
        family_oracle.global_response_norm,
        masked_global_response,
        {"scale": 1, "bias": 0},
        {"epsilon": 0.03},
    ),
    "dynamic tanh": Norm(
        jaxnorm.dynamic_tanh,
        family_oracle.dynamic_tanh,
        None,
        {"alpha": 0.5, "scale": 1, "bias": 0},
        {},
    ),
    "evo s0": Norm(
        jaxnorm.evo_norm_s0,
        family_oracle.evo_norm_s0,
        masked_evo_s0,
        {"v": 1, "scale": 1, "bias": 0},
        {"epsilon": 0.03, "num_groups": 2},
    ),
}


def draw_parameters(rng, norm, affine, others, dtype=np.float32):
    """Each around its own mean; `affine` is the shape of scale and bias."""
    return {
        key: draw(rng, affine if key in ("scale", "bias") else others, dtype, mean)
        for key, mean in norm.parameters.items()
    }
