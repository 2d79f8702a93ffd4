"""The normalizers that random calls are drawn of, and the options of each."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import batch_oracle
import family_oracle
import jax.numpy as jnp
import numpy as np
import weight_oracle

import jaxnorm


class Row(NamedTuple):
    """A normalizer, and what it takes."""

    function: Callable
    reference: Callable
    params: tuple[str, ...] = ("scale", "bias")
    state: str | None = None  # its kind
    features: str = "any"  # axes: also "no batch", "one" of these, or the "last"
    options: tuple[str, ...] = ()  # its own
    masked: bool = True
    takes_complex: bool = True
    powers: dict = {}  # noqa: RUF012  (of the std of x, that parameters grow with)


def of_batch(name, **row):
    row = {"state": "stats", **row}
    return Row(getattr(jaxnorm, name), getattr(batch_oracle, name), **row)


def of_example(name, *, centered=False, **row):
    function = getattr(jaxnorm, name)
    if centered:  # some of the drawn inputs have one value for each mean
        function = functools.partial(function, allow_single_value=True)
    return Row(function, getattr(family_oracle, name), **row)


def of_weight(name, **row):
    function = getattr(jaxnorm, name)
    return Row(function, getattr(weight_oracle, name), masked=False, **row)


def along_features(norm):
    return lambda x, feature_axes, **options: norm(x, axes=feature_axes, **options)


def gated(norm, broadcast_to):
    """With a gate that is drawn like any parameter."""

    def function(x, z, scale=None, *, feature_axes, **options):
        if z.ndim < x.ndim:
            (axis,) = np.atleast_1d(feature_axes) % x.ndim
            z = z.reshape([-1 if i == axis else 1 for i in range(x.ndim)])
        gate, (axis,) = broadcast_to(z, x.shape), np.atleast_1d(feature_axes)
        options = {"feature_axes": int(axis), "reduction_axes": int(axis)} | options
        return norm(x, gate, scale, **options)

    return function


AFFINE = ("scale", "bias")
ROWS = {
    "batch_norm": of_batch("batch_norm"),
    "batch_renorm": of_batch(
        "batch_renorm",
        state="renorm",
        options=("r_max", "d_max"),
        takes_complex=False,
    ),
    "ghost_batch_norm": of_batch(
        "ghost_batch_norm",
        features="no batch",
        options=("virtual_batch_size", "stats_rule"),
    ),
    "adaptive_batch_norm": of_batch(
        "adaptive_batch_norm",
        features="no batch",
        options=("strength",),
        takes_complex=False,
    ),
    "mean_only_batch_norm": of_batch(
        "mean_only_batch_norm", params=("bias",), state="mean", powers={"bias": 1}
    ),
    "recurrent_batch_norm": of_batch(
        "recurrent_batch_norm", state="steps", options=("step",)
    ),
    "evo_norm_b0": of_batch(
        "evo_norm_b0",
        params=("v", *AFFINE),
        state="var",
        features="no batch",
        takes_complex=False,
    ),
    "switchable_norm": of_batch(
        "switchable_norm",
        params=("mean_logits", "var_logits", *AFFINE),
        features="no batch",
    ),
    "batch_instance_norm": of_batch(
        "batch_instance_norm", params=("gate", *AFFINE), features="no batch"
    ),
    "instance_batch_norm": of_batch(
        "instance_batch_norm", features="one", options=("instance_features",)
    ),
    "virtual_batch_norm": of_batch(
        "virtual_batch_norm",
        params=("ref_mean", "ref_var", *AFFINE),
        state=None,
        features="no batch",
        options=("reference_size", "include_self"),
        powers={"ref_mean": 1, "ref_var": 2},
    ),
    "layer_norm": of_example(
        "layer_norm", centered=True, options=("reduction_axes", "scale_offset")
    ),
    "rms_norm": of_example(
        "rms_norm", params=("scale",), options=("reduction_axes", "scale_offset")
    ),
    "gated_rms_norm": Row(
        gated(jaxnorm.gated_rms_norm, jnp.broadcast_to),
        gated(family_oracle.gated_rms_norm, np.broadcast_to),
        params=("z", "scale"),
        features="one",
        options=("gate_first", "activation", "some_groups", "scale_offset"),
    ),
    "group_norm": of_example(
        "group_norm",
        centered=True,
        features="one",
        options=("num_groups", "group_size", "scale_offset"),
    ),
    "instance_norm": of_example(
        "instance_norm",
        centered=True,
        features="no batch",
        options=("scale_offset",),
    ),
    "filter_response_norm": of_example(
        "filter_response_norm",
        params=(*AFFINE, "threshold", "learned_epsilon"),
        features="no batch",
        takes_complex=False,  # with a threshold
        powers={"learned_epsilon": 2},
    ),
    "global_response_norm": of_example(
        "global_response_norm", features="no batch", powers={"bias": 1}
    ),
    "unit_norm": Row(
        along_features(jaxnorm.unit_norm),
        along_features(family_oracle.unit_norm),
        params=(),
        masked=False,
    ),
    "dynamic_tanh": of_example(
        "dynamic_tanh",
        params=("alpha", *AFFINE),
        masked=False,
        powers={"alpha": -1},
    ),
    "evo_norm_s0": of_example(
        "evo_norm_s0",
        params=("v", *AFFINE),
        features="one",
        options=("num_groups",),
        takes_complex=False,
        powers={"v": -1},
    ),
    "weight_norm": of_weight("weight_norm", params=("g",)),
    "standardize_weight": of_weight("standardize_weight", params=("gain",)),
    "spectral_norm": of_weight(
        "spectral_norm",
        params=(),
        state="vector",
        features="last",
        options=("n_steps",),
        takes_complex=False,
    ),
}


def draw_shape(rng, row):
    """Of rank 2 to 5, with axes of size 1 and, where there may be, 0."""
    ndim = int(rng.choice([2, 3, 3, 4, 4, 5]))
    shape = [int(rng.choice([1, 2, 3, 4, 6, 8])) for _ in range(ndim)]
    while math.prod(shape) > 600:
        i = int(np.argmax(shape))
        shape[i] = max(1, shape[i] // 2)
    if row.masked and rng.uniform() < 0.05:  # the others are of weights
        shape[rng.integers(ndim)] = 0
    return tuple(shape)


def draw_axes(rng, row, ndim):
    """Feature axes, of either sign and in any order."""
    first = 0 if row.features == "any" else 1
    match row.features:
        case "last":
            return ndim - 1
        case "one":
            axes = [rng.integers(1, ndim)]
        case _:
            number = 1 if rng.uniform() < 0.7 else rng.integers(1, ndim - first + 1)
            axes = rng.permutation(np.arange(first, ndim))[:number]
    axes = [int(axis) - ndim * int(rng.integers(2)) for axis in axes]
    return axes[0] if len(axes) == 1 and rng.uniform() < 0.7 else tuple(axes)


def draw_option(rng, option, shape, axes):
    """What is passed for one of a row's own options, in a dictionary."""

    def divisor(number):
        return int(rng.choice([n for n in range(1, number + 1) if number % n == 0]))

    axis = np.atleast_1d(axes)[0] if np.size(axes) else 0
    match option:
        case "r_max":
            return {option: float(rng.choice([1.0, 1.5, 3.0]))}
        case "d_max":
            return {option: float(rng.choice([0.0, 0.3, 5.0]))}
        case "virtual_batch_size":
            return {option: divisor(max(shape[0], 1))}
        case "stats_rule":
            return {option: str(rng.choice(["pooled", "mean", "sequential"]))}
        case "strength":
            return {option: float(rng.choice([0.0, 0.5, 1.0, 4.0]))}
        case "step":
            return {option: int(rng.integers(4))}
        case "instance_features":
            return {option: int(rng.integers(shape[axis] + 1))}
        case "reference_size":
            return {option: int(rng.integers(1, 9))}
        case "include_self":
            return {option: bool(rng.uniform() < 0.8)}
        case "reduction_axes":
            number = rng.integers(1, len(shape) + 1)
            drawn = rng.permutation(len(shape))[:number]
            return {option: tuple(int(i) for i in drawn)}
        case "scale_offset":
            return {option: float(rng.integers(2))}
        case "gate_first":
            return {option: bool(rng.integers(2))}
        case "activation":
            return {option: str(rng.choice(["silu", "sigmoid"]))}
        case "some_groups":
            number = divisor(max(shape[axis], 1))
            return [{}, {"num_groups": number}][int(rng.integers(2))]
        case "num_groups":
            return {option: divisor(max(shape[axis], 1))}
        case "group_size":  # in place of a number of groups, sometimes
            if rng.uniform() < 0.3 and shape[axis]:
                size = divisor(shape[axis])
                return {"num_groups": None, option: size}
            return {}
        case "n_steps":
            return {option: int(rng.integers(1, 4))}
    raise ValueError(option)
