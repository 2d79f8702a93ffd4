"""The normalizers that are not the core's one rule, for tests: a table of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import oracles

import jaxnorm
from support.drawing import draw


class Norm(NamedTuple):
    function: Callable
    reference: Callable
    parameters: dict  # the mean of each, to draw it
    options: dict
    masked: bool = True  # it takes a mask


NORMS = {
    "filter response": Norm(
        jaxnorm.filter_response_norm,
        oracles.filter_response_norm,
        {"scale": 1, "bias": 0, "threshold": -0.5},
        {"epsilon": 0.03},
    ),
    "global response": Norm(
        jaxnorm.global_response_norm,
        oracles.global_response_norm,
        {"scale": 1, "bias": 0},
        {"epsilon": 0.03},
    ),
    "dynamic tanh": Norm(
        jaxnorm.dynamic_tanh,
        oracles.dynamic_tanh,
        {"alpha": 0.5, "scale": 1, "bias": 0},
        {},
        masked=False,
    ),
    "dynamic erf": Norm(
        jaxnorm.dynamic_erf,
        oracles.dynamic_erf,
        {"alpha": 0.5, "shift": 0.2, "scale": 1, "bias": 0},
        {},
        masked=False,
    ),
    "evo s0": Norm(
        jaxnorm.evo_norm_s0,
        oracles.evo_norm_s0,
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
