"""Normalizers with the moments of each example."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import oracles

import jaxnorm
from support.normalizers.entry import (
    AFFINE,
    BIAS,
    SCALE,
    Drawn,
    Layer,
    Param,
    of_example,
    of_single_values,
)


def gate_of(x):
    """Numbers of every dtype; of others see sample/test_gated_rms_norm.py."""
    if not isinstance(x, jax.Array):  # an input that is refused
        return {"gate": jnp.ones(1)}
    gate = (jnp.arange(float(x.shape[-1])) - 0.5).astype(jnp.real(x).dtype)
    return {"gate": jnp.broadcast_to(gate, x.shape)}


# What random calls are drawn of.


def gated(norm):
    def function(x, z, scale=None, *, feature_axes, **options):
        (axis,) = np.atleast_1d(feature_axes)
        options = {"feature_axes": int(axis), "reduction_axes": int(axis)} | options
        return norm(x, z, scale, **options)

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


def either_way(norm):
    """Of a series and a forecast, what is normalized, and what is brought back."""

    def function(x, forecast, scale=None, bias=None, *, back, **options):
        y, restored = norm(x, forecast, scale, bias, **options)
        return (restored, y) if back else (y, restored)

    return function


def there_and_back(x, forecast, scale, bias, *, dtype=None, **options):
    options |= {"dtype": dtype, "allow_single_value": True}
    y, undo = jaxnorm.reversible_instance_norm(x, scale, bias, **options)
    return y, undo(forecast, dtype=dtype)


TABLE = {
    "layer_norm": of_example(
        jaxnorm.layer_norm,
        drawn=Drawn(
            options=("reduction_axes", "scale_offset"),
            function=of_single_values(jaxnorm.layer_norm),
        ),
        layers={"LayerNorm": Layer(integers=True)},
    ),
    "rms_norm": of_example(
        jaxnorm.rms_norm,
        params={"scale": BIAS},
        options={"scale_offset": 1.0},
        drawn=Drawn(options=("reduction_axes", "scale_offset", "round_before_scale")),
        layers={"RMSNorm": Layer(integers=True)},
    ),
    "gated_rms_norm": of_example(
        jaxnorm.gated_rms_norm,
        params={"scale": SCALE},
        beside=gate_of,
        options={
            "num_groups": 2,
            "reduction_axes": (1, 2),  # else two small elements have large derivatives
        },
        drawn=Drawn(
            "one",
            (
                "gate_first",
                "activation",
                "some_groups",
                "space and features",
                "scale_offset",
            ),
            ("z", "scale"),
            function=gated(jaxnorm.gated_rms_norm),
            reference=gated(oracles.gated_rms_norm),
        ),
        layers={"GatedRMSNorm": Layer()},
    ),
    "seed_norm": of_example(
        jaxnorm.seed_norm,
        params={"alpha": Param(1.0), "beta": Param(0.2), "scale": SCALE},
        options={"reduction_axes": (1, 2)},  # likewise
        powers={"beta": -1},
        takes_complex=False,
        drawn=Drawn(
            options=("reduction_axes", "scale_offset"),
            function=averaging(jaxnorm.seed_norm),
            reference=averaging(oracles.seed_norm),
        ),
        layers={"SeedNorm": Layer()},
    ),
    "group_norm": of_example(
        jaxnorm.group_norm,
        options={"num_groups": 2},
        drawn=Drawn(
            "one",
            ("num_groups", "group_size", "space and features", "scale_offset"),
            function=of_single_values(jaxnorm.group_norm),
        ),
        layers={"GroupNorm": Layer(integers=True)},
    ),
    "causal_group_norm": of_example(
        lambda x, **options: jaxnorm.causal_group_norm(x, **options)[0],
        drawn=None,  # a stream in several parts has tests of its own
        layers={"CausalGroupNorm": Layer()},
    ),
    "instance_norm": of_example(
        jaxnorm.instance_norm,
        drawn=Drawn(
            "no batch",
            ("space", "scale_offset"),
            function=of_single_values(jaxnorm.instance_norm),
        ),
        layers={"InstanceNorm": Layer(integers=True)},
    ),
    "reversible_instance_norm": of_example(
        lambda x, **options: jaxnorm.reversible_instance_norm(x, **options)[0],
        drawn=Drawn(
            "no batch",
            ("time_axis", "scale_offset", "back"),
            ("forecast", *AFFINE),
            function=either_way(there_and_back),
            reference=either_way(oracles.reversible_instance_norm),
        ),
        layers={"ReversibleInstanceNorm": Layer(integers=True)},
    ),
}
