"""Scales stored as distances from 1: shifted, converted, and those that look wrong."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from support.drawing import draw
from support.refusals import refused
from support.tiers import matrix

import jaxnorm.linen
import jaxnorm.nnx
from jaxnorm import tools
from jaxnorm._layers.sample import MomentLayer

pytestmark = pytest.mark.usefixtures("annotations_checked")

FEATURES = 4
MODULES = {  # all whose layers have an offset
    name: module
    for name in jaxnorm.linen.__all__
    if isinstance(module := getattr(jaxnorm.linen, name), type)
    and issubclass(module, MomentLayer)
}


def build(name, **options):
    groups = {"num_groups": 2} if name == "GroupNorm" else {}
    return MODULES[name](**groups, **options)


# One of each signature: all of them add the offset in the same place, of which each
# module has test_linen_family.py::test_scale_offset.
@pytest.mark.parametrize(
    "name", matrix(MODULES, often=("GroupNorm", "GatedRMSNorm", "SegmentLayerNorm"))
)
def test_outputs_stay_to_the_bit(name, rng):
    """From distances to scales, in float32."""
    x = draw(rng, (2, 3, FEATURES))
    inputs = (x,)
    if name == "GatedRMSNorm":
        inputs = (x, x)
    elif name.startswith(("Graph", "Segment")):
        inputs = (x, jnp.array([0, 1]), 2)
    stored = build(name, scale_offset=1.0)
    init = functools.partial(stored.init, jax.random.key(0), *inputs)
    variables = jax.eval_shape(init)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), variables)
    distances = draw(rng, FEATURES, std=0.3)
    variables = {"params": variables["params"] | {"scale": distances}}
    shifted = tools.shift_scales(variables, [()], 1.0)
    ys = [
        jax.jit(lambda v, norm=norm: jax.tree.leaves(norm.apply(v, *inputs))[0])(v)
        for norm, v in ((stored, variables), (build(name), shifted))
    ]
    np.testing.assert_array_equal(*ys)
    # and back, where nothing near 1 is rounded
    back = tools.shift_scales(shifted, [()], -1.0)["params"]["scale"]
    np.testing.assert_array_equal(back, shifted["params"]["scale"] - 1)


PARAMS = {
    "embed": {"scale": np.float32([5.0])},
    "decoder": {
        "attention": {"kernel": np.ones((1, 1), np.float32)},
        "gate": {"kernel": np.ones((1, 1)), "scale": np.float32([0.5])},  # no norm
        "norm": {"scale": np.float32([0.5]), "bias": np.float32([7.0])},
    },
}
CHOICES = {
    "a norm": ([("decoder", "norm")], {("decoder", "norm")}),
    "all in a block": ([("decoder",)], {("decoder", "norm")}),
    "named itself": ([("decoder", "gate")], {("decoder", "gate")}),
    "all": ([()], {("decoder", "norm"), ("embed",)}),
}


@pytest.mark.parametrize("case", CHOICES)
@pytest.mark.parametrize("collection", [False, True])
def test_only_the_chosen(case, collection):
    layers, expected = CHOICES[case]
    tree = {"params": PARAMS, "other": 3} if collection else PARAMS
    shifted = tools.shift_scales(tree, layers, 0.25)
    if collection:
        assert shifted.pop("other") == 3
        shifted = shifted["params"]
    changed = set()

    def compare(path, old, new):
        assert old.dtype == new.dtype
        if not np.array_equal(old, new):
            np.testing.assert_array_equal(new, old + 0.25)
            changed.add(tuple(entry.key for entry in path[:-1]))

    jax.tree_util.tree_map_with_path(compare, PARAMS, shifted)
    assert changed == expected


def test_state_of_nnx_and_boxes():
    model = jaxnorm.nnx.RMSNorm(2, rngs=nnx.Rngs(0))
    state = nnx.state(model, nnx.Param)
    shifted = tools.shift_scales(state, [()], -1.0)
    nnx.update(model, shifted)
    np.testing.assert_array_equal(model.scale[...], 0)
    pure = tools.shift_scales(nnx.to_pure_dict(state), [()], 2.0)
    np.testing.assert_array_equal(pure["scale"], 2)
    init = nn.with_partitioning(nn.initializers.ones, ("features",))
    params = jaxnorm.linen.RMSNorm(scale_init=init).init(
        jax.random.key(0), jnp.ones((1, 2))
    )
    box = tools.shift_scales(params, [()], 2.0)["params"]["scale"]
    assert isinstance(box, nn.Partitioned)
    np.testing.assert_array_equal(box.unbox(), 3)


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, np.float16])
def test_rounded_once_to_the_dtype(dtype, make):
    """And not the number that is added."""
    scale = make(np.linspace(-0.3, 0.3, 99).astype(dtype))
    shifted = tools.shift_scales({"scale": scale}, [()], 1.003)["scale"]
    assert shifted.dtype == dtype
    wide = np.asarray(scale, np.float32) + np.float32(1.003)
    np.testing.assert_array_equal(shifted, wide.astype(dtype))


BAD = {
    "integers": ({"scale": np.ones(2, int)}, [()], 1.0, ("scale", "int64")),
    "nothing there": (PARAMS, [("encoder",)], 1.0, ("'encoder'", "'norm'")),
    "no norm": (PARAMS, [("decoder", "attention")], 1.0, ("'attention'",)),
    "a path to a leaf": (np.ones(2), [()], 1.0, ("variables", "ndarray")),
    "no number": (PARAMS, [()], float("nan"), ("by", "nan")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case, as_users_run_it):
    *arguments, says = BAD[case]
    with refused(*says):
        tools.shift_scales(*arguments)


# Converters: PyTorch's names of arrays, and so on.


def haiku_from(arrays, layers, **options):
    return tools.norms_from_haiku(arrays, {}, layers, **options)


def haiku_to(variables, layers, **options):
    options |= {"shape": (-1,), "decay_rate": 0.9}
    return tools.norms_to_haiku(variables, layers, **options)[0]


CONVERTERS = {
    "torch": (
        tools.norms_from_torch,
        tools.norms_to_torch,
        lambda name, scale: {f"{name}.weight": scale},
    ),
    "keras": (
        tools.norms_from_keras,
        tools.norms_to_keras,
        lambda name, scale: {f"{name}/gamma": scale},
    ),
    "haiku": (haiku_from, haiku_to, lambda name, scale: {name: {"scale": scale}}),
}
LAYERS = {"a": ("a",), "b": ("b",)}


def scales(variables):
    return [variables["params"][name]["scale"] for name in LAYERS]


@pytest.mark.parametrize("framework", CONVERTERS)
def test_converted_both_ways(framework):
    """Of two layers, of which the second stores scales."""
    convert, back, name = CONVERTERS[framework]
    distance, scale = np.float32([0.3, 1e-9]), np.float32([1.3, 0.8])
    arrays = name("a", distance) | name("b", scale)
    theirs = {"their_scale_offset": {"a": 1.0, "b": 0.0}}
    for ours, expected in (
        ({"scale_offset": {"a": 1.0, "b": 0.0}}, (distance, scale)),
        ({}, (distance + np.float32(1), scale)),
        ({"scale_offset": 1.0}, (distance, scale - np.float32(1))),
    ):
        variables = convert(arrays, LAYERS, **theirs, **ours)
        for actual, wanted in zip(scales(variables), expected, strict=True):
            np.testing.assert_array_equal(actual, wanted)
            assert actual.dtype == np.float32
        again = back(variables, LAYERS, **theirs, **ours)
        for a, b in zip(*map(jax.tree.leaves, (again, arrays)), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-7)


@pytest.mark.parametrize("framework", CONVERTERS)
def test_offsets_of_other_layers_are_refused(framework, as_users_run_it):
    convert, _, name = CONVERTERS[framework]
    with refused("their_scale_offset", "'a'", "'c'"):
        convert(name("a", np.ones(2)), {"a": ("a",)}, their_scale_offset={"c": 1.0})
    with refused("scale_offset", "inf"):
        convert(name("a", np.ones(2)), {"a": ("a",)}, scale_offset=float("inf"))


# What is stored about, what their layers add, what ours do; what the warning says.
WRONG = {
    "right": (1, 0, 0, None),
    "right distances": (0, 1, 1, None),
    "to scales": (0, 1, 0, None),
    "to distances": (1, 0, 1, None),
    "two": (2, 0, 0, None),  # without an offset nothing is there twice
    "lost": (0, 0, 0, "is missing"),
    "lost by ours": (0, 0, 1, "is missing"),
    "doubled by theirs": (1, 1, 0, "twice"),
    "doubled by both": (1, 1, 1, "twice"),
}


@pytest.mark.parametrize("framework", CONVERTERS)
@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_center_is_seen_where_it_is_converted(case, framework, rng):
    center, theirs, ours, says = WRONG[case]
    convert, back, name = CONVERTERS[framework]
    drawn = [rng.normal(center, 0.05, 8).astype(np.float32) for _ in LAYERS]
    arrays = name("a", drawn[0]) | name("b", drawn[1])
    options = {"their_scale_offset": float(theirs), "scale_offset": float(ours)}
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        variables = convert(arrays, LAYERS, **options)
        back(variables, LAYERS, **options)
    assert len(seen) == (2 if says else 0)
    assert all(says in str(warning.message) for warning in seen)


def test_a_wrong_center_is_seen_in_variables(rng):
    params = {f"RMSNorm_{i}": {"scale": draw(rng, 8, std=0.05)} for i in range(3)}
    tools.check_scales(params, [()], scale_offset=1.0)
    with pytest.warns(UserWarning, match=r"about 0 in 3 of 3.*scale_offset=0 .*miss"):
        tools.check_scales({"params": params}, [()], scale_offset=0.0)
    scaled = tools.shift_scales(params, [()], 1.0)
    tools.check_scales(scaled, [()], scale_offset=0.0)
    with pytest.warns(UserWarning, match="twice"):
        tools.check_scales(scaled, [()], scale_offset=1.0)
    # Norms at the end of residual branches may well start at 0.
    some = scaled | {"RMSNorm_0": {"scale": jnp.zeros(8)}}
    tools.check_scales(some, [()], scale_offset=0.0)
    with pytest.warns(UserWarning, match="about 0 in 1 of 1"):
        tools.check_scales(some, [("RMSNorm_0",)], scale_offset=0.0)


@pytest.mark.parametrize("layers", [["norm"], ("decoder", "norm"), "norm"])
def test_a_path_is_a_tuple(layers, as_users_run_it):
    """A string would be taken letter by letter."""
    with refused("layers", "needs a comma"):
        tools.check_scales(PARAMS, layers, scale_offset=0.0)
    with refused("norms", "needs a comma"):
        tools.normalization_mask(PARAMS, norms=layers)
