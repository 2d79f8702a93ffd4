"""Bad input to the batch family fails while tracing, and is told what to do."""

import functools

import jax
import jax.numpy as jnp
import pytest
from support.drawing import ones, zeros
from support.refusals import refused

import jaxnorm

pytestmark = pytest.mark.usefixtures("as_users_run_it")


X = ones((8, 6, 5))
STATS, RENORM = jaxnorm.init_batch_stats(5), jaxnorm.init_renorm_stats(5)
LOGITS, ONES = zeros(3), ones(5)
REFERENCE = jaxnorm.Moments(ONES, zeros(5), ONES)
COMPLEX = ones(X.shape, jnp.complex64)
INTEGER = ones(X.shape, jnp.int32)

# The arguments before the options, and what is good with them.
GOOD = {
    "batch_renorm": ((X, RENORM), {"r_max": 3.0, "d_max": 5.0}),
    "ghost_batch_norm": ((X, STATS), {"virtual_batch_size": 4}),
    "adaptive_batch_norm": ((X, STATS), {}),
    "mean_only_batch_norm": ((X, jaxnorm.init_mean_stats(5)), {}),
    "recurrent_batch_norm": ((X, jaxnorm.init_recurrent_stats(3, 5), 1), {}),
    "switchable_norm": ((X, STATS, LOGITS, LOGITS), {}),
    "batch_instance_norm": ((X, STATS, ONES), {}),
    "instance_batch_norm": (
        (X, jaxnorm.init_batch_stats(3)),
        {"instance_features": 2},
    ),
    "evo_norm_b0": ((X, jaxnorm.init_var_stats(5), ONES), {}),
    "virtual_batch_norm": ((X, REFERENCE), {"reference_size": 7}),
    "collect_reference": ((X,), {}),
}
STATELESS = ("virtual_batch_norm", "collect_reference")


def call(name, replaced=None, **options):
    """Trace it with one argument, by its place, and some options changed."""
    arguments, good = GOOD[name]
    arguments = list(arguments)
    for place, value in (replaced or {}).items():
        arguments[place] = value
    if name not in STATELESS:
        good = {"use_running_average": False} | good
    function = functools.partial(getattr(jaxnorm, name), **good | options)
    return jax.eval_shape(function, *arguments)


def fails(says, name, replaced=None, **options):
    with refused(*says):
        call(name, replaced, **options)


@pytest.mark.parametrize("name", GOOD)
def test_the_tables_are_one_change_away_from_good(name):
    result = call(name)
    y = result if isinstance(result, jax.ShapeDtypeStruct) else result[0]
    assert y.shape == X.shape


OPTIONS = [  # what has to be in the message, the function, the options
    (("r_max", "at least 1", "0.5"), "batch_renorm", {"r_max": 0.5}),
    (("r_max", "at least 1", "nan"), "batch_renorm", {"r_max": float("nan")}),
    (("r_max", "number", "None"), "batch_renorm", {"r_max": None}),
    (("r_max", "scalar", "(5,)"), "batch_renorm", {"r_max": ONES}),
    (("d_max", "at least 0", "-1"), "batch_renorm", {"d_max": -1.0}),
    (("unbiased", "False"), "batch_renorm", {"unbiased": True}),
    (("virtual_batch_size", "8", "3"), "ghost_batch_norm", {"virtual_batch_size": 3}),
    (
        ("virtual_batch_size", "integer", "2.0"),
        "ghost_batch_norm",
        {"virtual_batch_size": 2.0},
    ),
    (
        ("virtual_batch_size", "at least 1", "0"),
        "ghost_batch_norm",
        {"virtual_batch_size": 0},
    ),
    (
        ("virtual_batch_size", "at least 1", "-2"),
        "ghost_batch_norm",
        {"virtual_batch_size": -2, "use_running_average": True},
    ),
    (("virtual_batch_size", "8", "16"), "ghost_batch_norm", {"virtual_batch_size": 16}),
    (
        ("stats_rule", "pooled, mean, sequential", "'median'"),
        "ghost_batch_norm",
        {"stats_rule": "median"},
    ),
    (("strength", "at least 0", "-1"), "adaptive_batch_norm", {"strength": -1.0}),
    (("strength", "nan"), "adaptive_batch_norm", {"strength": float("nan")}),
    (("strength", "number", "None"), "adaptive_batch_norm", {"strength": None}),
    (
        ("instance_features", "[0, 5]", "6"),
        "instance_batch_norm",
        {"instance_features": 6},
    ),
    (
        ("instance_features", "integer", "1.0"),
        "instance_batch_norm",
        {"instance_features": 1.0},
    ),
    (("instance_features", "-1"), "instance_batch_norm", {"instance_features": -1}),
    (("(2,)", "(3,)"), "instance_batch_norm", {"instance_features": 3}),
    (
        ("reference_size", "number", "None"),
        "virtual_batch_norm",
        {"reference_size": None},
    ),
    (
        ("reference_size", "at least 1", "0"),
        "virtual_batch_norm",
        {"reference_size": 0},
    ),
    (
        ("reference_size", "(5,)"),
        "virtual_batch_norm",
        {"reference_size": ones(5)},
    ),
    (
        ("include_self", "static_argnames"),
        "virtual_batch_norm",
        {"include_self": jnp.array(1)},
    ),
]


@pytest.mark.parametrize(("says", "name", "options"), OPTIONS)
def test_options(says, name, options):
    fails(says, name, **options)


OTHER_STATS = jaxnorm.init_batch_stats(4)
ARGUMENTS = [  # what has to be in the message, the function, the place, the value
    (("RenormStats", "BatchStats", "init_renorm_stats"), "batch_renorm", 1, STATS),
    (("(4,)", "(5,)"), "batch_renorm", 1, jaxnorm.init_renorm_stats(4)),
    (("init_batch_stats", "RenormStats"), "ghost_batch_norm", 1, RENORM),
    (("init_batch_stats", "RenormStats"), "adaptive_batch_norm", 1, RENORM),
    (("init_batch_stats", "RenormStats"), "switchable_norm", 1, RENORM),
    (("init_batch_stats", "RenormStats"), "batch_instance_norm", 1, RENORM),
    (("(4,)", "(5,)"), "ghost_batch_norm", 1, OTHER_STATS),
    (("(4,)", "(5,)"), "adaptive_batch_norm", 1, OTHER_STATS),
    (("(4,)", "(5,)"), "switchable_norm", 1, OTHER_STATS),
    (("(4,)", "(3,)"), "instance_batch_norm", 1, OTHER_STATS),
    (("MeanStats", "MeanStats(running_mean)"), "mean_only_batch_norm", 1, ONES),
    (("VarStats", "VarStats(running_var)"), "evo_norm_b0", 1, ONES),
    (("init_mean_stats", "BatchStats"), "mean_only_batch_norm", 1, STATS),
    (("init_var_stats", "BatchStats"), "evo_norm_b0", 1, STATS),
    (
        ("stats.mean", "int32"),
        "mean_only_batch_norm",
        1,
        jaxnorm.MeanStats(zeros(5, jnp.int32)),
    ),
    (
        ("stats.var", "int32"),
        "evo_norm_b0",
        1,
        jaxnorm.VarStats(ones(5, jnp.int32)),
    ),
    (
        ("stats.mean", "(4,)", "(5,)"),
        "mean_only_batch_norm",
        1,
        jaxnorm.init_mean_stats(4),
    ),
    (("stats.var", "(4,)", "(5,)"), "evo_norm_b0", 1, jaxnorm.init_var_stats(4)),
    (("v", "(4,)", "(5,)"), "evo_norm_b0", 2, ones(4)),
    (("v", "int32"), "evo_norm_b0", 2, ones(5, jnp.int32)),
    (("gate", "(4,)", "(5,)"), "batch_instance_norm", 2, ones(4)),
    (("gate", "int32"), "batch_instance_norm", 2, ones(5, jnp.int32)),
    (("mean_logits", "(3,)", "(2,)"), "switchable_norm", 2, zeros(2)),
    (("var_logits", "(3,)", "(3, 5)"), "switchable_norm", 3, zeros((3, 5))),
    (("step", "integer", "float32"), "recurrent_batch_norm", 2, 1.0),
    (("step", "scalar", "(2,)"), "recurrent_batch_norm", 2, jnp.arange(2)),
    (("time steps", "init_recurrent_stats"), "recurrent_batch_norm", 1, (ONES, X)),
    (("time steps", "(5,)", "init_recurrent_stats"), "recurrent_batch_norm", 1, STATS),
    (
        ("time steps", "init_recurrent_stats"),
        "recurrent_batch_norm",
        1,
        jaxnorm.BatchStats(zeros((3, 5)), ones((2, 5))),
    ),
    (("Moments", "BatchStats"), "virtual_batch_norm", 1, STATS),
    (
        ("reference.mean", "int32", "astype"),
        "virtual_batch_norm",
        1,
        jaxnorm.Moments(*zeros((3, 5), jnp.int32)),
    ),
    (
        ("reference", "(4,)", "(5,)"),
        "virtual_batch_norm",
        1,
        jaxnorm.Moments(*ones((3, 4))),
    ),
    *(
        (("x must be real", "complex64"), name, 0, COMPLEX)
        for name in ("batch_renorm", "adaptive_batch_norm", "evo_norm_b0")
    ),
    *((("x", "int32", "astype"), name, 0, INTEGER) for name in GOOD),
]


@pytest.mark.parametrize(("says", "name", "place", "value"), ARGUMENTS)
def test_arguments(says, name, place, value):
    fails(says, name, {place: value})


@pytest.mark.parametrize("name", GOOD)
def test_names_of_options(name):
    with pytest.raises(TypeError, match="unexpected keyword argument 'eps'") as caught:
        call(name, eps=1e-3)
    # Python's own error does not know the options of all.
    assert "BatchCall" not in str(caught.value)
    if name not in STATELESS:
        assert "Did you mean epsilon?" in str(caught.value)


@pytest.mark.parametrize("name", sorted(set(GOOD) - set(STATELESS)))
def test_training_or_inference_must_be_said(name):
    arguments, options = GOOD[name]
    with refused("use_running_average"):
        jax.eval_shape(functools.partial(getattr(jaxnorm, name), **options), *arguments)


@pytest.mark.parametrize("name", GOOD)
def test_options_that_all_share(name):
    fails(("epsilon", "-1"), name, epsilon=-1.0)
    fails(("feature_axes", "3"), name, feature_axes=3)
    if name not in STATELESS:
        fails(("momentum", "1.5"), name, momentum=1.5)
        fails(
            ("use_running_average", "static_argnames"),
            name,
            use_running_average=jnp.array(1),
        )


@pytest.mark.parametrize(
    ("size", "says"),
    [
        (3, ("4 examples", "2 devices", "got 3")),
        (6, ("4 examples", "2 devices", "got 6")),
        (10, ("4 examples", "2 devices", "got 10")),
        (16, ("4 examples", "2 devices", "got 16")),
    ],
)
def test_ghosts_over_devices(size, says):
    options = {"virtual_batch_size": size, "axis_name": "rows"}
    with refused("virtual_batch_size", *says):
        jax.vmap(
            functools.partial(
                jaxnorm.ghost_batch_norm, use_running_average=False, **options
            ),
            in_axes=(0, None),
            axis_name="rows",
        )(X.reshape(2, 4, 6, 5), STATS)


def test_groups_and_ghosts():
    with pytest.raises(ValueError, match=r"axis_index_groups must be None.*0, 1"):
        jax.pmap(
            functools.partial(
                jaxnorm.ghost_batch_norm,
                use_running_average=False,
                virtual_batch_size=2,
                axis_name="rows",
                axis_index_groups=[[0, 1], [2, 3]],
            ),
            in_axes=(0, None),
            axis_name="rows",
        )(X.reshape(4, 2, 6, 5), STATS)


@pytest.mark.parametrize(
    ("says", "make"),
    [
        (("r_max", "0.5"), lambda: jaxnorm.warmup_renorm(0.5)),
        (("d_max", "-1"), lambda: jaxnorm.warmup_renorm(d_max=-1.0)),
        (("r_max", "nan"), lambda: jaxnorm.warmup_renorm(r_max=float("nan"))),
        # There is no line to infinity: before its end it would be NaN.
        (("r_max", "finite", "inf"), lambda: jaxnorm.warmup_renorm(float("inf"))),
        (("d_max", "finite"), lambda: jaxnorm.warmup_renorm(d_max=float("inf"))),
        (("start", "number", "None"), lambda: jaxnorm.warmup_renorm(start=None)),
        (("r_end", "number", "'9'"), lambda: jaxnorm.warmup_renorm(r_end="9")),
        (("d_end", "finite"), lambda: jaxnorm.warmup_renorm(d_end=float("inf"))),
        (("d_max", "number", "None"), lambda: jaxnorm.warmup_renorm(d_max=None)),
        (("start", "50000"), lambda: jaxnorm.warmup_renorm(start=50_000)),
        (("start", "-1"), lambda: jaxnorm.warmup_renorm(start=-1)),
        (("max_steps", "0"), lambda: jaxnorm.init_recurrent_stats(0, 5)),
        (("dtype", "int32"), lambda: jaxnorm.init_recurrent_stats(2, 5, jnp.int32)),
        (("dtype", "int32"), lambda: jaxnorm.init_mean_stats(5, jnp.int32)),
        (("dtype", "int32"), lambda: jaxnorm.init_var_stats(5, jnp.int32)),
        (("feature_shape", "-1"), lambda: jaxnorm.init_mean_stats(-1)),
        (("feature_shape", "-1"), lambda: jaxnorm.init_var_stats(-1)),
    ],
)
def test_bad_arguments_of_initializers_and_schedules(says, make):
    with refused(*says):
        make()
