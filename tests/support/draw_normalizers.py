"""The normalizers that random calls are drawn of, and what each takes."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import oracles

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
    return Row(getattr(jaxnorm, name), getattr(oracles, name), **row)


def of_example(name, *, centered=False, **row):
    function = getattr(jaxnorm, name)
    if centered:  # some of the drawn inputs have one value for each mean
        function = functools.partial(function, allow_single_value=True)
    return Row(function, getattr(oracles, name), **row)


def of_weight(name, **row):
    function = getattr(jaxnorm, name)
    return Row(function, getattr(oracles, name), masked=False, **row)


def along_features(norm):
    return lambda x, feature_axes, **options: norm(x, axes=feature_axes, **options)


def gated(norm):
    def function(x, z, scale=None, *, feature_axes, **options):
        (axis,) = np.atleast_1d(feature_axes)
        options = {"feature_axes": int(axis), "reduction_axes": int(axis)} | options
        return norm(x, z, scale, **options)

    return function


def either_way(norm):
    """Of a series and a forecast, what is normalized, and what is brought back."""

    def function(x, forecast, scale=None, bias=None, *, back, **options):
        y, restored = norm(x, forecast, scale, bias, **options)
        return (restored, y) if back else (y, restored)

    return function


def averaging(norm):
    """With sums over beta times x that do not grow with the number of elements."""

    def function(x, alpha, beta, scale=None, *, reduction_axes=-1, **options):
        sizes = [x.shape[axis] for axis in np.atleast_1d(reduction_axes)]
        part = 2.0 ** -math.ceil(math.log2(max(math.prod(sizes), 1)))
        if beta.dtype.itemsize < 4:  # of float16 the product may be too small
            beta = beta.astype(np.float32)
        options["reduction_axes"] = reduction_axes
        return norm(x, alpha, beta * part, scale, **options)

    return function


def there_and_back(x, forecast, scale, bias, *, dtype=None, **options):
    options |= {"dtype": dtype, "allow_single_value": True}
    y, undo = jaxnorm.reversible_instance_norm(x, scale, bias, **options)
    return y, undo(forecast, dtype=dtype)


def in_segments(name, **row):
    """Rows in segments, some of them in none, and of some segments no row."""

    def ids(x):
        rows = np.arange(len(x), dtype=np.int32)
        return {"segment_ids": (rows * rows % 6 - 1), "num_segments": 4}

    def ours(x, *params, **options):
        return getattr(jaxnorm, name)(x, *params, **options, **ids(x))

    def reference(x, *params, **options):
        return getattr(oracles, name)(x, *params, **options, **ids(x))

    return Row(ours, reference, features="no batch", **row)


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
    "running_norm": of_batch(
        "running_norm",
        params=(),
        state="stream",
        options=("update", "max_abs", "max_count"),
    ),
    "layer_norm": of_example(
        "layer_norm", centered=True, options=("reduction_axes", "scale_offset")
    ),
    "rms_norm": of_example(
        "rms_norm",
        params=("scale",),
        options=("reduction_axes", "scale_offset", "round_before_scale"),
    ),
    "gated_rms_norm": Row(
        gated(jaxnorm.gated_rms_norm),
        gated(oracles.gated_rms_norm),
        params=("z", "scale"),
        features="one",
        options=(
            "gate_first",
            "activation",
            "some_groups",
            "space and features",
            "scale_offset",
        ),
    ),
    "seed_norm": Row(
        averaging(jaxnorm.seed_norm),
        averaging(oracles.seed_norm),
        params=("alpha", "beta", "scale"),
        options=("reduction_axes", "scale_offset"),
        takes_complex=False,
        powers={"beta": -1},
    ),
    "group_norm": of_example(
        "group_norm",
        centered=True,
        features="one",
        options=("num_groups", "group_size", "space and features", "scale_offset"),
    ),
    "instance_norm": of_example(
        "instance_norm",
        centered=True,
        features="no batch",
        options=("space", "scale_offset"),
    ),
    "reversible_instance_norm": Row(
        either_way(there_and_back),
        either_way(oracles.reversible_instance_norm),
        params=("forecast", *AFFINE),
        features="no batch",
        options=("time_axis", "scale_offset", "back"),
    ),
    "graph_norm": in_segments(
        "graph_norm", params=("mean_scale", *AFFINE), options=("scale_offset",)
    ),
    "segment_layer_norm": in_segments("segment_layer_norm", options=("scale_offset",)),
    "segment_rms_norm": in_segments(
        "segment_rms_norm", params=("scale",), options=("scale_offset",)
    ),
    "filter_response_norm": of_example(
        "filter_response_norm",
        params=(*AFFINE, "threshold", "learned_epsilon"),
        features="no batch",
        options=("space",),
        takes_complex=False,  # with a threshold
        powers={"learned_epsilon": 2},
    ),
    "global_response_norm": of_example(
        "global_response_norm",
        features="no batch",
        options=("space",),
        powers={"bias": 1},
    ),
    "unit_norm": Row(
        along_features(jaxnorm.unit_norm),
        along_features(oracles.unit_norm),
        params=(),
        masked=False,
    ),
    "dynamic_tanh": of_example(
        "dynamic_tanh",
        params=("alpha", *AFFINE),
        masked=False,
        powers={"alpha": -1},
    ),
    "dynamic_erf": of_example(
        "dynamic_erf",
        params=("alpha", "shift", *AFFINE),
        masked=False,
        takes_complex=False,
        powers={"alpha": -1},
    ),
    "evo_norm_s0": of_example(
        "evo_norm_s0",
        params=("v", *AFFINE),
        features="one",
        options=("num_groups", "space and features"),
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
