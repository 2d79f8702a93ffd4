"""Bad input of per-example normalizers fails while tracing, and says what to do."""

import jax
import jax.numpy as jnp
import pytest
from support.drawing import ones
from support.refusals import refused

import jaxnorm

pytestmark = pytest.mark.usefixtures("as_users_run_it")


ALL = {
    "integer x": (dict(x=jnp.int32), ("x", "int32", "astype")),
    "bool x": (dict(x=bool), ("x", "bool")),
    "infinite offset": (dict(scale_offset=float("inf")), ("scale_offset", "inf")),
    "integer scale": (dict(scale=ones(6, int)), ("scale", "int32")),
    "scale of another size": (dict(scale=ones(5)), ("scale", "(5,)", "(6,)")),
    "scale of another rank": (dict(scale=ones((4, 6))), ("scale", "(4, 6)")),
    "scale as a number": (dict(scale=jnp.float32(1)), ("scale", "()", "(6,)")),
    "negative epsilon": (dict(epsilon=-1e-6), ("epsilon", "-1e-06")),
    "epsilon as an array": (dict(epsilon=ones(())), ("epsilon", "number")),
    "feature axis too large": (dict(feature_axes=3), ("feature_axes", "3", "rank 3")),
    "feature axis as a float": (dict(feature_axes=2.0), ("feature_axes", "2.0")),
    "mask that does not fit": (dict(mask=ones((4, 2, 6))), ("mask", "(4, 2, 6)")),
    "complex mask": (dict(mask=ones(6, jnp.complex64)), ("mask", "complex64")),
    "real dtype, complex x": (
        dict(x=jnp.complex64, dtype=jnp.float32),
        ("dtype", "complex64", "float32"),
    ),
    "axis name as a number": (dict(axis_name=3), ("axis_name", "3")),
    "groups without an axis": (
        dict(axis_index_groups=[[0, 1]]),
        ("axis_index_groups", "axis_name"),
    ),
}
REDUCED = {
    "reduced axis too large": (dict(reduction_axes=3), ("reduction_axes", "3")),
    "reduced axis twice": (dict(reduction_axes=(1, -2)), ("reduction_axes", "(1, -2)")),
}
FIRST = {"features first": (dict(feature_axes=0), ("feature_axes", "first", "x[None]"))}
GROUPS = {
    "groups that do not divide": (
        dict(num_groups=4),
        ("num_groups", "divide", "6", "got 4", "1, 2, 3, 6"),
    ),
    "no groups": (dict(num_groups=0), ("num_groups", "got 0", "1, 2, 3, 6")),
    "size that does not divide": (
        dict(num_groups=None, group_size=5),
        ("group_size", "divide", "6", "got 5", "1, 2, 3, 6"),
    ),
    "both": (dict(group_size=2), ("num_groups=2", "group_size=2", "None")),
    "neither": (
        dict(num_groups=None),
        ("num_groups=None", "group_size=None", "must be given"),
    ),
    "reduction without the features": (
        dict(reduction_axes=0),
        ("reduction_axes", "feature axis 2", "got 0.", "instance_norm"),
    ),
    "two feature axes": (dict(feature_axes=(1, 2)), ("one axis", "(1, 2)")),
}
OWN = {
    "layer_norm": REDUCED,
    "rms_norm": REDUCED
    | {
        "rounding that is not a flag": (
            dict(round_before_scale=1),
            ("round_before_scale", "Python bool", "got 1"),
        ),
    },
    "gated_rms_norm": REDUCED
    | {
        "gate of another shape": (
            dict(gate=ones(6)),
            ("gate", "(4, 3, 6)", "(6,)", "broadcast_to"),
        ),
        "integer gate": (dict(gate=ones((4, 3, 6), int)), ("gate", "int32")),
        "complex gate": (
            dict(gate=ones((4, 3, 6), jnp.complex64)),
            ("gate", "real", "complex64"),
        ),
        "another activation": (
            dict(activation="relu"),
            ("activation", "'silu'", "'sigmoid'", "'relu'"),
        ),
        "an order that is not a flag": (dict(gate_first=1), ("gate_first", "bool")),
        "groups that do not divide": (dict(num_groups=4), ("num_groups", "divide")),
        "both": (
            dict(num_groups=3, group_size=2),
            ("num_groups=3", "group_size=2", "None"),
        ),
        "groups, reduction without the features": (
            dict(num_groups=2, reduction_axes=1),
            ("reduction_axes", "feature axis 2", "got 1."),
        ),
        "groups, two feature axes": (
            dict(num_groups=2, feature_axes=(1, 2)),
            ("one axis", "(1, 2)"),
        ),
    },
    "seed_norm": REDUCED
    | {
        "complex x": (dict(x=jnp.complex64), ("x", "real", "complex64")),
        "complex beta": (
            dict(beta=ones(6, jnp.complex64)),
            ("beta", "real", "complex64"),
        ),
        "alpha of another size": (dict(alpha=ones(5)), ("alpha", "(5,)", "(6,)")),
        "heads that do not divide": (
            dict(num_heads=4),
            ("num_heads", "divide", "6", "got 4", "1, 2, 3, 6"),
        ),
        "heads as a float": (dict(num_heads=2.0), ("num_heads", "2.0")),
        "heads, reduction without the features": (
            dict(num_heads=2, reduction_axes=1),
            ("reduction_axes", "feature axis 2", "got 1."),
        ),
        "heads, two feature axes": (
            dict(num_heads=2, feature_axes=(1, 2)),
            ("one axis", "(1, 2)"),
        ),
        "heads over devices": (
            dict(num_heads=2, axis_name="i"),
            ("one head", "num_heads=2", "'i'", "jax.jit"),
        ),
    },
    "instance_norm": FIRST,
    "group_norm": REDUCED | FIRST | GROUPS,
    "causal_group_norm": REDUCED | FIRST | GROUPS,
}
DEFAULT = {
    "group_norm": {"num_groups": 2},
    "causal_group_norm": {"num_groups": 2},
    "gated_rms_norm": {"gate": ones((4, 3, 6))},
    "seed_norm": {"alpha": ones(6), "beta": ones(6)},
}
TABLE = [
    pytest.param(function, *bad, id=f"{function}: {name}")
    for function, own in OWN.items()
    for name, bad in (ALL | own).items()
]


def call(function, x=jnp.float32, scale=None, **options):
    norm = getattr(jaxnorm, function)
    options = DEFAULT.get(function, {}) | options
    x = jax.ShapeDtypeStruct((4, 3, 6), x)
    return jax.eval_shape(lambda x: norm(x, scale=scale, **options), x)


@pytest.mark.parametrize(("function", "options", "says"), TABLE)
def test_while_tracing(function, options, says):
    with refused(*says):
        call(function, **options)


@pytest.mark.parametrize("function", OWN)
def test_the_table_is_one_change_away_from_good(function):
    y, *_ = jax.tree.leaves(call(function, scale=ones(6)))
    assert y.shape == (4, 3, 6)


@pytest.mark.parametrize("function", OWN)
def test_an_unbound_axis_keeps_the_error_of_jax(function):
    with pytest.raises(NameError, match="elsewhere"):
        call(function, axis_name="elsewhere")


def test_bias_of_another_size():
    for function in ("layer_norm", "instance_norm"):
        with pytest.raises(ValueError, match=r"bias .*\(6,\).*\(5,\)"):
            call(function, bias=ones(5))
