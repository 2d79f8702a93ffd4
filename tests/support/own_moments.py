"""Layer, RMS, group, causal group and instance norm: the cases of each."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import oracles

import jaxnorm

EPSILON = 0.03  # large enough to see where it is added


class Case(NamedTuple):
    """A normalizer, its options, and the shapes and the mask that it is given."""

    norm: str
    shape: tuple[int, ...]
    mask: str | None  # a kind that make_mask knows
    scale: tuple[int, ...] | None
    bias: tuple[int, ...] | None = None  # RMS norm has none
    options: dict = {}  # noqa: RUF012  (never changed)

    def ours(self, **more):
        """Our function of x, scale and bias."""
        function = functools.partial(
            getattr(jaxnorm, self.norm), **{"epsilon": EPSILON, **self.options, **more}
        )
        if self.norm == "instance_norm" and len(self.shape) == 2:
            function = functools.partial(function, allow_single_value=True)
        if self.norm == "causal_group_norm":
            return without_moments(function)
        return without_bias(function) if self.norm == "rms_norm" else function

    def oracle(self, **more):
        """The oracle's."""
        function = functools.partial(
            getattr(oracles, self.norm),
            **{"epsilon": EPSILON, **self.options, **more},
        )
        return without_bias(function) if self.norm == "rms_norm" else function


def without_bias(rms_norm):
    def function(x, scale=None, bias=None):
        assert bias is None
        return rms_norm(x, scale)

    return function


def without_moments(causal_group_norm):
    def function(x, scale=None, bias=None):
        return causal_group_norm(x, None, scale, bias)[0]

    return function


# One of each, with parameters that examples share.
PLAIN = {
    "layer": Case("layer_norm", (4, 3, 6), None, (6,), (6,)),
    "rms": Case("rms_norm", (4, 3, 6), None, (6,)),
    "group": Case("group_norm", (4, 3, 6), None, (6,), (6,), {"num_groups": 2}),
    "causal": Case("causal_group_norm", (4, 3, 6), None, (6,), (6,), {"num_groups": 2}),
    "instance": Case("instance_norm", (4, 6, 3), None, (3,), (3,)),
}
# The same over all axes of an example but those that keep their own statistics.
WHOLE = PLAIN | {
    name: PLAIN[name]._replace(options={"reduction_axes": (1, 2)})
    for name in ("layer", "rms")
}

CASES = PLAIN | {
    "layer, offset": Case(
        "layer_norm", (4, 6), "bool", (6,), (6,), {"scale_offset": 1.0}
    ),
    "layer, no parameters": Case("layer_norm", (4, 6), "bool", None),
    "layer, space too": Case(
        "layer_norm",
        (3, 2, 4, 6),
        "integer",
        (6,),
        (6,),
        {"reduction_axes": (1, 2, -1)},
    ),
    "layer, parameters of two axes": Case(
        "layer_norm", (3, 4, 6), "weights", (4, 6), None, {"feature_axes": (-1, 1)}
    ),
    "layer, parameters across": Case(
        "layer_norm", (3, 4, 6), "bool", (4,), (4,), {"feature_axes": 1}
    ),
    "layer, adaptive": Case("layer_norm", (3, 4, 6), "bool", (3, 1, 6), (3, 1, 6)),
    "layer, scale of each element": Case(
        "layer_norm", (3, 4, 6), "weights", (3, 4, 6), (1, 1, 1)
    ),
    "layer, examples masked": Case("layer_norm", (5, 3, 6), "examples", (6,), (6,)),
    "layer, mask of lower rank": Case(
        "layer_norm", (3, 6, 5), "lower rank", (5,), None, {"reduction_axes": (1, 2)}
    ),
    "layer, nothing but masked": Case("layer_norm", (3, 6), "empty", (6,), (6,)),
    "rms, no scale": Case("rms_norm", (4, 6), "weights", None),
    "rms, offset": Case("rms_norm", (4, 6), "bool", (6,), None, {"scale_offset": 1.0}),
    "rms, adaptive, space too": Case(
        "rms_norm", (3, 4, 6), "bool", (3, 1, 6), None, {"reduction_axes": (1, 2)}
    ),
    "rms, examples masked": Case("rms_norm", (5, 3, 6), "examples", (6,)),
    "group, size": Case(
        "group_norm",
        (3, 4, 6),
        "bool",
        (6,),
        (6,),
        {"num_groups": None, "group_size": 2},
    ),
    "group, offset": Case(
        "group_norm",
        (3, 4, 6),
        None,
        (6,),
        (6,),
        {"num_groups": 2, "scale_offset": 0.5},
    ),
    "group, channels first": Case(
        "group_norm",
        (3, 6, 4),
        "weights",
        (6,),
        (6,),
        {"num_groups": 2, "feature_axes": 1},
    ),
    "group, features alone": Case(
        "group_norm",
        (3, 4, 6),
        "bool",
        (6,),
        None,
        {"num_groups": 2, "reduction_axes": 2},
    ),
    "group, batch too": Case(
        "group_norm",
        (3, 4, 6),
        "integer",
        (6,),
        (6,),
        {"num_groups": 3, "reduction_axes": (0, -1)},
    ),
    "group, adaptive": Case(
        "group_norm", (3, 4, 6), "weights", (3, 1, 6), (3, 1, 6), {"num_groups": 3}
    ),
    "group, mask that the features share": Case(
        "group_norm", (3, 8, 6), "lower rank", (6,), (6,), {"num_groups": 3}
    ),
    "group, examples masked": Case(
        "group_norm", (5, 3, 6), "examples", (6,), (6,), {"num_groups": 3}
    ),
    "group, of one feature, empty": Case(
        "group_norm", (3, 4, 6), "empty feature", (6,), (6,), {"num_groups": 6}
    ),
    "causal, of one group, adaptive": Case(
        "causal_group_norm", (3, 5, 4), "bool", (3, 1, 4), (3, 5, 1)
    ),
    "causal, each feature, one empty": Case(
        "causal_group_norm", (3, 6, 4), "empty feature", (4,), (4,), {"num_groups": 4}
    ),
    "causal, images, size, offset": Case(
        "causal_group_norm",
        (2, 4, 3, 4),
        "integer",
        (4,),
        (4,),
        {"num_groups": None, "group_size": 2, "scale_offset": 0.5},
    ),
    "causal, time first": Case(
        "causal_group_norm",
        (5, 3, 4),
        "weights",
        (4,),
        (4,),
        {"time_axis": 0, "reduction_axes": -1},
    ),
    "causal, time last": Case(
        "causal_group_norm",
        (3, 4, 2, 5),
        "bool",
        (4,),
        (4,),
        {"time_axis": -1, "feature_axes": 1, "num_groups": 2},
    ),
    "causal, examples masked": Case(
        "causal_group_norm", (5, 3, 6), "examples", (6,), (6,), {"num_groups": 3}
    ),
    "instance, offset": Case(
        "instance_norm", (3, 6, 3), None, (3,), (3,), {"scale_offset": 1.0}
    ),
    "instance, image": Case("instance_norm", (2, 3, 4, 3), "bool", (3,), (3,)),
    "instance, channels first": Case(
        "instance_norm", (3, 2, 4, 3), "weights", (2,), (2,), {"feature_axes": 1}
    ),
    "instance, two feature axes": Case(
        "instance_norm",
        (3, 4, 5, 2),
        "integer",
        (4, 2),
        (4, 2),
        {"feature_axes": (3, 1)},
    ),
    "instance, adaptive": Case(
        "instance_norm", (3, 6, 2), "bool", (3, 1, 2), (3, 1, 2)
    ),
    "instance, no space": Case("instance_norm", (3, 4), None, (4,), (4,)),
    "instance, examples masked": Case(
        "instance_norm", (5, 4, 3), "examples", (3,), (3,)
    ),
    "instance, an empty feature": Case(
        "instance_norm", (3, 6, 3), "empty feature", None, (3,)
    ),
}


def plain_norm(case, weights):
    """The normalizer of a plain case as autodiff sees it: two passes, and no rule."""
    center = case.norm != "rms_norm"
    if case.norm == "causal_group_norm":
        return causal_plain_norm(case, weights)
    groups = case.options.get("num_groups")
    axes = {"layer_norm": (2,), "rms_norm": (2,), "instance_norm": (1,)}
    axes = axes.get(case.norm, (1, 3))

    def in_groups(value):
        return value if groups is None else value.reshape(*value.shape[:-1], groups, -1)

    def norm(x, scale, bias):
        w, value = in_groups(weights), in_groups(x)
        share = w / jnp.sum(w, axes, keepdims=True)
        if center:
            value = value - jnp.sum(share * value, axes, keepdims=True)
        var = jnp.sum(share * (value * value), axes, keepdims=True)
        xhat = (value / jnp.sqrt(var + EPSILON)).reshape(x.shape)
        return xhat * scale + bias

    return norm


def causal_plain_norm(case, weights):
    """Group norm of each prefix, of which the last step is kept."""
    group = case._replace(norm="group_norm")

    def norm(x, scale, bias):
        ends = range(1, x.shape[1] + 1)
        prefixes = [
            plain_norm(group, weights[:, :end])(x[:, :end], scale, bias) for end in ends
        ]
        return jnp.concatenate([y[:, -1:] for y in prefixes], 1)

    return norm
