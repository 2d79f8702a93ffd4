"""The normalizers that are not the core's one rule, for tests: a table of them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import oracles

import jaxnorm
from support.drawing import draw
from support.normalizers import response


class Norm(NamedTuple):
    function: Callable
    reference: Callable
    parameters: dict  # the mean of each, to draw it
    options: dict
    masked: bool = True  # it takes a mask


def norm_of(name, entry):
    parameters = {key: param.loc for key, param in entry.params.items()}
    parameters.pop("learned_epsilon", None)  # see test_filter_response_norm.py
    # Large enough to see where it is added; curves take none.
    options = entry.options | ({"epsilon": 0.03} if entry.masked else {})
    function, reference = getattr(jaxnorm, name), getattr(oracles, name, None)
    return Norm(function, reference, parameters, options, entry.masked)


NORMS = {
    name: norm_of(name, entry)
    for name, entry in response.TABLE.items()
    if name != "unit_norm"  # see test_unit_norm.py
}


def draw_parameters(rng, norm, affine, others, dtype=np.float32):
    """Each around its own mean; `affine` is the shape of scale and bias."""
    return {
        key: draw(rng, affine if key in ("scale", "bias") else others, dtype, mean)
        for key, mean in norm.parameters.items()
    }
