"""Bad input fails while tracing, with a message that says what to do."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from support import family
from support.drawing import ones, zeros
from support.refusals import refused

import jaxnorm
import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx

pytestmark = pytest.mark.usefixtures("as_users_run_it")


class Bad(NamedTuple):
    name: str
    says: tuple[str, ...]  # what has to stand in the message
    options: dict  # of batch_norm
    x: tuple = ((4, 3, 5), jnp.float32)  # shape, dtype
    stats: tuple = (5,)
    scale: tuple | None = (5,)


TABLE = [
    Bad("scale of another size", ("scale", "(4,)", "(5,)"), {}, scale=(4,)),
    Bad("scale of another rank", ("scale", "(3, 5)", "(5,)"), {}, scale=(3, 5)),
    Bad(
        "scale that does not broadcast",
        ("scale", "(2, 1, 5)", "(4, 3, 5)"),
        {},
        scale=(2, 1, 5),
    ),
    Bad("scale as a number", ("scale", "()", "(5,)"), {}, scale=()),
    Bad("stats of another size", ("(4,)", "(5,)"), {}, stats=(4,)),
    Bad("stats of another rank", ("(1, 1, 5)", "(5,)"), {}, stats=(1, 1, 5)),
    Bad("axis too large", ("feature_axes", "got 3", "rank 3"), {"feature_axes": 3}),
    Bad("axis too small", ("feature_axes", "-4"), {"feature_axes": (-4,)}),
    Bad("axis twice", ("feature_axes", "(2, -1)"), {"feature_axes": (2, -1)}),
    Bad("axis as a flag", ("feature_axes", "True"), {"feature_axes": True}),
    Bad("axis as a float", ("feature_axes", "1.0"), {"feature_axes": 1.0}),
    Bad("axis as a string", ("feature_axes", "'-1'"), {"feature_axes": "-1"}),
    Bad("momentum above one", ("momentum", "1.5", "1"), {"momentum": 1.5}),
    Bad("momentum below zero", ("momentum", "-0.1", "0"), {"momentum": -0.1}),
    Bad("momentum not a number", ("momentum", "nan"), {"momentum": float("nan")}),
    Bad(
        "schedule without a count",
        ("momentum", "mean and var without a count", "counted=True"),
        {"momentum": jaxnorm.warmup_momentum()},
    ),
    Bad("negative epsilon", ("epsilon", "-1e-05"), {"epsilon": -1e-5}),
    Bad("unequal groups", ("axis_index_groups", "equal"), {
        "axis_name": "batch", "axis_index_groups": [[0, 1, 2], [3]],
    }),
    Bad("overlapping groups", ("axis_index_groups", "0, 1", "1, 2"), {
        "axis_name": "batch", "axis_index_groups": [[0, 1], [1, 2]],
    }),
    Bad("incomplete groups", ("axis_index_groups", "0, 1", "2, 4"), {
        "axis_name": "batch", "axis_index_groups": [[0, 1], [2, 4]],
    }),
    Bad("groups without an axis", ("axis_index_groups", "axis_name"), {
        "axis_index_groups": [[0, 1], [2, 3]],
    }),
    Bad(
        "mask that does not broadcast",
        ("mask", "(4, 2, 1)", "(4, 3, 5)"),
        {"mask": ones((4, 2, 1), bool)},
    ),
    Bad(
        "mask of examples without axes of size one",
        ("mask", "(4,)", "(4, 3, 5)"),
        {"mask": ones((4,), bool)},
    ),
    Bad("mask of higher rank", ("mask", "(1, 4, 3, 5)"), {
        "mask": ones((1, 4, 3, 5), bool),
    }),
    Bad("complex mask", ("mask", "complex64"), {"mask": ones(5, jnp.complex64)}),
    Bad("integer x", ("x", "int32", "astype"), {}, x=((4, 3, 5), jnp.int32)),
    Bad("bool x", ("x", "bool"), {}, x=((4, 3, 5), bool)),
    Bad(
        "unbiased with fractional weights",
        ("unbiased", "float32", "mask"),
        {"unbiased": True, "mask": ones((4, 3, 5))},
    ),
    Bad(
        "complex x with a real dtype",
        ("dtype", "complex64", "float32"),
        {"dtype": jnp.float32},
        x=((4, 3, 5), jnp.complex64),
    ),
    Bad("integer dtype", ("dtype", "int32"), {"dtype": jnp.int32}),
    Bad("misspelled dtype", ("dtype must be", "'flot32'"), {"dtype": "flot32"}),
    Bad("axis name as a number", ("axis_name", "3"), {"axis_name": 3}),
    Bad("epsilon as an array", ("epsilon", "number"), {"epsilon": ones(5)}),
    Bad("no epsilon", ("epsilon", "None"), {"epsilon": None}),
    Bad("infinite epsilon", ("epsilon", "inf"), {"epsilon": float("inf")}),
]  # fmt: skip


def call(bad, inference=False):
    """batch_norm as a function of its arrays, and their shapes and dtypes."""
    make = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    stats = jaxnorm.BatchStats(make(bad.stats), make(bad.stats))

    def function(x, stats, scale):
        return jaxnorm.batch_norm(
            x, stats, scale, use_running_average=inference, **bad.options
        )

    return function, (jax.ShapeDtypeStruct(*bad.x), stats, make(bad.scale))


def fails(bad, function, *arguments):
    with refused(*bad.says):
        function(*arguments)


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_while_tracing(bad):
    function, shapes = call(bad)
    # vmap binds the axis of those rows that name one.
    if bad.options.get("axis_name") == "batch":
        shapes = jax.tree.map(lambda s: s.update(shape=(4, *s.shape)), shapes)
        function = jax.vmap(function, axis_name="batch")
    fails(bad, jax.eval_shape, function, *shapes)
    fails(bad, jax.jit(function).lower, *shapes)


@pytest.mark.parametrize("bad", TABLE, ids=lambda bad: bad.name)
def test_with_arrays(bad):
    function, shapes = call(bad)
    arrays = jax.tree.map(lambda s: ones(s.shape, s.dtype), shapes)
    if bad.options.get("axis_name") == "batch":
        arrays = jax.tree.map(lambda a: jnp.stack([a] * 4), arrays)
        function = jax.vmap(function, axis_name="batch")
    fails(bad, function, *arrays)


ALSO = {"feature_axes", "epsilon", "momentum"}
IN_INFERENCE = [
    bad for bad in TABLE if ALSO & {*bad.options} and "schedule" not in bad.name
]
IN_INFERENCE += [bad for bad in TABLE if not bad.options]


@pytest.mark.parametrize("bad", IN_INFERENCE, ids=lambda bad: bad.name)
def test_in_inference(bad):
    function, shapes = call(bad, inference=True)
    fails(bad, jax.eval_shape, function, *shapes)


def test_the_table_is_one_change_away_from_good():
    function, shapes = call(Bad("good", (), {}))
    y, _ = jax.eval_shape(function, *shapes)
    assert y.shape == (4, 3, 5)


@pytest.mark.parametrize("flag", ["use_running_average", "use_fast_variance",
                                  "unbiased", "skip_nonfinite"])  # fmt: skip
def test_traced_flags(flag):
    x, stats = ones((4, 5)), jaxnorm.init_batch_stats((5,))

    @jax.jit
    def function(value):
        options = {"use_running_average": False} | {flag: value}
        return jaxnorm.batch_norm(x, stats, **options)

    bad = Bad("traced flag", (flag, "static_argnames"), {})
    fails(bad, function, True)


def test_an_unbound_axis_keeps_the_error_of_jax():
    with pytest.raises(NameError, match="elsewhere"):
        jaxnorm.batch_norm(
            ones((4, 5)),
            jaxnorm.init_batch_stats((5,)),
            use_running_average=False,
            axis_name="elsewhere",
        )


# ---- the functions of the core


CORE = {
    "moments: mask": (
        lambda x: jaxnorm.batch_moments(x, mask=ones((2, 5))),
        ("mask", "(2, 5)", "(4, 5)"),
    ),
    "moments: axis": (
        lambda x: jaxnorm.batch_moments(x, feature_axes=2),
        ("feature_axes", "2"),
    ),
    "moments: integers": (
        lambda x: jaxnorm.batch_moments(x.astype(jnp.int32)),
        ("int32",),
    ),
    "moments: shift": (
        lambda x: jaxnorm.batch_moments(x, shift=zeros(4)),
        ("shift", "(4,)", "(5,)"),
    ),
    "update: shapes": (
        lambda x: jaxnorm.update_batch_stats(
            jaxnorm.init_batch_stats((4,)), jaxnorm.batch_moments(x)
        ),
        ("(4,)", "(5,)"),
    ),
    "update: momentum": (
        lambda x: jaxnorm.update_batch_stats(
            jaxnorm.init_batch_stats((5,)), jaxnorm.batch_moments(x), momentum=2
        ),
        ("momentum", "2"),
    ),
    "moments: integer shift": (
        lambda x: jaxnorm.batch_moments(x, shift=zeros(5, jnp.int32)),
        ("shift", "int32"),
    ),
    "update: a tuple": (
        lambda x: jaxnorm.update_batch_stats(
            jaxnorm.init_batch_stats(5), tuple(jaxnorm.batch_moments(x))
        ),
        ("moments", "Moments", "tuple", "batch_moments"),
    ),
    "update: statistics": (
        lambda x: jaxnorm.update_batch_stats(*[jaxnorm.init_batch_stats(5)] * 2),
        ("moments", "Moments", "BatchStats"),
    ),
    "update: integer statistics": (
        lambda x: jaxnorm.update_batch_stats(
            jaxnorm.BatchStats(*zeros((2, 5), jnp.int32)), jaxnorm.batch_moments(x)
        ),
        ("stats.mean", "int32"),
    ),
    "merge: a tuple": (
        lambda x: jaxnorm.merge_moments(
            jaxnorm.batch_moments(x), tuple(jaxnorm.batch_moments(x))
        ),
        ("b", "Moments", "tuple"),
    ),
    "merge: integers": (
        lambda x: jaxnorm.merge_moments(
            jaxnorm.batch_moments(x), jaxnorm.Moments(*ones((3, 5), jnp.int32))
        ),
        ("b.mean", "int32", "astype"),
    ),
    "merge: shapes": (
        lambda x: jaxnorm.merge_moments(
            jaxnorm.batch_moments(x), jaxnorm.batch_moments(x[:, :4])
        ),
        ("(4,)", "(5,)"),
    ),
    "normalize: mean": (
        lambda x: jaxnorm.normalize(x, zeros(4), ones(5)),
        ("mean", "(4,)", "(5,)"),
    ),
    "normalize: complex variance": (
        lambda x: jaxnorm.normalize(x, zeros(5), ones(5, jnp.complex64)),
        ("var", "real", "complex64"),
    ),
    "normalize: integer mean": (
        lambda x: jaxnorm.normalize(x, zeros(5, jnp.int32), ones(5)),
        ("mean", "int32"),
    ),
    "normalize: bias": (
        lambda x: jaxnorm.normalize(x, zeros(5), ones(5), bias=ones(4)),
        ("bias", "(4,)", "(5,)"),
    ),
    "normalize: epsilon": (
        lambda x: jaxnorm.normalize(x, zeros(5), ones(5), epsilon=-1.0),
        ("epsilon", "-1.0"),
    ),
    "stats: integers": (
        lambda x: (x, jaxnorm.init_batch_stats(5, jnp.int32))[0],
        ("dtype", "int32"),
    ),
    "stats: integer arrays": (
        lambda x: jaxnorm.batch_norm(
            x,
            jaxnorm.BatchStats(*ones((2, 5), jnp.int32)),
            use_running_average=False,
        ),
        ("stats.mean", "int32"),
    ),
    "stats: negative size": (
        lambda x: (x, jaxnorm.init_batch_stats((3, -1)))[0],
        ("feature_shape", "(3, -1)"),
    ),
    "stats: size as a float": (
        lambda x: (x, jaxnorm.init_renorm_stats(2.0))[0],
        ("feature_shape", "integer", "2.0"),
    ),
    "groups as a float": (
        lambda x: jaxnorm.group_norm(x, num_groups=1.0),
        ("num_groups", "integer", "1.0"),
    ),
    "size of a group as a flag": (
        lambda x: jaxnorm.group_norm(x, num_groups=None, group_size=True),
        ("group_size", "integer", "True"),
    ),
    "offset: NaN": (
        lambda x: jaxnorm.rms_norm(x, ones(5), scale_offset=float("nan")),
        ("scale_offset", "nan"),
    ),
    "offset: infinite": (
        lambda x: jaxnorm.rms_norm(x, ones(5), scale_offset=float("inf")),
        ("scale_offset", "finite", "inf"),
    ),
    "offset: a string": (
        lambda x: jaxnorm.rms_norm(x, ones(5), scale_offset="1"),
        ("scale_offset", "number", "'1'"),
    ),
    "stats: moments": (
        lambda x: jaxnorm.batch_norm(
            x, jaxnorm.batch_moments(x), use_running_average=False
        ),
        ("stats", "Moments", "init_batch_stats"),
    ),
    "stats: complex for real input": (
        lambda x: jaxnorm.batch_norm(
            x,
            jaxnorm.BatchStats(zeros(5, jnp.complex64), ones(5)),
            use_running_average=True,
        ),
        ("stats.mean", "complex64", "dtype float32"),
    ),
    "stats: complex variance": (
        lambda x: jaxnorm.batch_norm(
            x,
            jaxnorm.BatchStats(zeros(5), ones(5, jnp.complex64)),
            use_running_average=True,
        ),
        ("stats.var", "complex64", "dtype float32"),
    ),
    "warm-up": (
        lambda x: (x, jaxnorm.warmup_momentum(-0.5))[0],
        ("-0.5", "[0, 1]"),
    ),
}


@pytest.mark.parametrize("name", CORE)
def test_core(name):
    function, says = CORE[name]
    fails(Bad(name, says, {}), jax.eval_shape, function, ones((4, 5)))


# ---- what is not an array

NO_ARRAYS = {"None": None, "a string": "ones", "a ragged list": [[1.0], [1.0, 2.0]]}


@pytest.mark.parametrize("bad", NO_ARRAYS)
@pytest.mark.parametrize("name", [n for n in family.TABLE if n != "spectral_norm"])
def test_no_array(name, bad):
    """The error names the argument, of any function of the family."""
    entry = family.TABLE[name]
    x, params, state = family.draw_arguments(entry)
    argument = {"weight_norm": "v", "standardize_weight": "w"}
    value = NO_ARRAYS[bad]
    calls = {argument.get(name, "x"): lambda: entry.call(value, params, state, None)}
    if entry.masked and bad != "None":
        calls["mask"] = lambda: entry.call(x, params, state, value)
    if bad != "None":
        for param in params:
            wrong = params | {param: value}
            calls[param] = lambda wrong=wrong: entry.call(x, wrong, state, None)
    if name == "running_norm" and isinstance(value, list):
        return  # which takes trees
    if name == "virtual_batch_norm":  # within the reference, which has a type
        calls = {k: v for k, v in calls.items() if k not in ("mean", "var")}
    for what, function in calls.items():
        with refused(what, "array"):
            function()


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((6,), "mask[..., None, None]"),
        ((6, 5), "mask[..., None]"),
        ((6, 5, 2), "Give it size 1"),
        ((1, 6, 5, 4), "Give it size 1"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["batch_norm", "layer_norm", "filter_response_norm"])
def test_a_mask_that_does_not_fit(name, shape, hint):
    """One of sequences, (batch, time), is told how to stand beside features."""
    entry = family.TABLE[name]
    _, params, state = family.draw_arguments(entry)
    x, mask = ones((6, 5, family.FEATURES)), ones(shape, bool)
    with refused("mask", str(shape), hint):
        jax.eval_shape(lambda x: entry.call(x, params, state, mask), x)


@pytest.mark.parametrize("api", [jaxnorm.linen, jaxnorm.nnx, jaxnorm.equinox])
@pytest.mark.parametrize("name", ["BatchNorm", "GroupNorm", "RMSNorm"])
def test_a_misspelled_dtype_of_parameters(api, name):
    with refused("param_dtype must be", "'flot32'"):
        if api is jaxnorm.linen:
            norm = getattr(api, name)(param_dtype="flot32")
            use = {"use_running_average": True} if name == "BatchNorm" else {}
            jax.eval_shape(
                functools.partial(norm.init, **use),
                jax.random.key(0),
                jnp.ones((2, 32)),
            )
        else:
            rngs = {"rngs": nnx.Rngs(0)} if api is jaxnorm.nnx else {}
            getattr(api, name)(32, param_dtype="flot32", **rngs)


def test_a_misspelled_dtype_of_statistics():
    with refused("dtype must be", "'flot32'"):
        jaxnorm.init_batch_stats(3, "flot32")


# ---- messages show no whole array, and name the class


@pytest.mark.parametrize(
    ("name", "function"),
    {
        "feature_shape": lambda x: jaxnorm.init_batch_stats(x),
        "epsilon": lambda x: jaxnorm.layer_norm(x, epsilon=x),
        "feature_axes": lambda x: jaxnorm.layer_norm(x, feature_axes=x),
        "num_groups": lambda x: jaxnorm.group_norm(x, num_groups=x),
        "strength": lambda x: jaxnorm.adaptive_batch_norm(
            x, jaxnorm.init_batch_stats(5), strength=x, use_running_average=True
        ),
        "use_running_average": lambda x: jaxnorm.batch_norm(
            x, jaxnorm.init_batch_stats(5), use_running_average=x
        ),
    }.items(),
)
def test_an_array_in_the_place_of_a_number(name, function):
    with refused(name, "got an array of shape (4, 5) and dtype float32"):
        function(ones((4, 5)))


@pytest.mark.parametrize("api", [jaxnorm.nnx, jaxnorm.equinox])
@pytest.mark.parametrize("name", ["BatchNorm", "LayerNorm"])
def test_a_constructor_says_which_arguments_it_takes(api, name):
    for arguments, says in (((), "num_features"), ((4, 5), "too many")):
        with pytest.raises(
            TypeError, match=rf"{name}\(\) .*{says}.* are: num_features"
        ):
            getattr(api, name)(*arguments)
    with pytest.raises(TypeError, match=rf"{name}\(\) .*'feature_axis'.* epsilon,"):
        rngs = {"rngs": nnx.Rngs(0)} if api is jaxnorm.nnx else {}
        getattr(api, name)(4, feature_axis=1, **rngs)


@pytest.mark.parametrize("api", [jaxnorm.nnx, jaxnorm.equinox])
@pytest.mark.parametrize("features", ["batch", 4.0, (4, None)])
def test_features_are_numbers(api, features):
    rngs = {"rngs": nnx.Rngs(0)} if api is jaxnorm.nnx else {}
    with refused("num_features", "integer"):
        api.BatchNorm(features, **rngs)


@pytest.mark.parametrize("wrapped", [jax.jit, jax.pmap])
def test_an_axis_that_nothing_binds(wrapped):
    """The message says what to do, whichever of JAX's functions has noticed it."""
    stats, options = jaxnorm.init_batch_stats(5), {"axis_name": "data"}
    train = options | {"use_running_average": False}
    for function in (
        lambda x: jaxnorm.layer_norm(x, **options),
        lambda x: jaxnorm.batch_norm(x, stats, **train)[0],
        lambda x: jaxnorm.ghost_batch_norm(x, stats, virtual_batch_size=2, **train)[0],
        lambda x: jaxnorm.batch_norm(x, stats, axis_index_groups=[[0]], **train)[0],
    ):
        with pytest.raises(NameError, match=r"shard_map.* got 'data'. .*omit it"):
            wrapped(function)(ones((1, 4, 5)))
