"""Momentum as a function of the number of updates, in every module that trains."""

import functools
import inspect

import jax
import numpy as np
import pytest
from flax import nnx
from support import family
from support.drawing import place
from support.family import close
from support.family_entries import COLLECTIONS
from support.family_modules import TABLE
from support.refusals import refused
from support.tiers import matrix

import jaxnorm
import jaxnorm.equinox
import jaxnorm.linen
import jaxnorm.nnx
from jaxnorm import tools

KEY = jax.random.key(0)


@pytest.fixture
def x():
    return family.draw_arguments(family.TABLE["rms_norm"])[0]


TRAINED = [n for n in TABLE if "momentum" in inspect.signature(
    getattr(jaxnorm.linen, n)).parameters]  # fmt: skip


MAKERS = [
    jaxnorm.warmup_momentum,
    tools.momentum_from_haiku,
    tools.momentum_from_torch,
]


@pytest.mark.parametrize("name", [name for name in TRAINED if TABLE[name].counts])
def test_a_maker_of_schedules_is_no_schedule(name, x):
    """`warmup_momentum` for `warmup_momentum()`, as everybody writes once."""
    entry = TABLE[name]
    for maker in MAKERS:
        module = entry.build(True, momentum=maker)
        says = ["momentum=warmup_momentum()"] * (maker is jaxnorm.warmup_momentum)
        with refused(*(says or ["must be a Python number"])):
            init = functools.partial(entry.init, module, KEY, x)
            apply = functools.partial(entry.apply, module, mutable=COLLECTIONS)
            jax.eval_shape(apply, jax.eval_shape(init), x)


def test_a_maker_of_schedules_is_told_before_training(x):
    """Inference does not ask for the momentum, so that a mistake would sleep there."""
    says, maker = "momentum=warmup_momentum()", {"momentum": jaxnorm.warmup_momentum}
    with refused(says):
        jax.eval_shape(jaxnorm.linen.BatchNorm(True, **maker).init, KEY, x)
    with refused(says):
        jaxnorm.nnx.BatchNorm(3, **maker, rngs=nnx.Rngs(0))
    with refused(says):
        jaxnorm.equinox.BatchNorm(3, **maker)


def test_a_maker_of_bounds_is_no_bound(x):
    options = {"use_running_average": False}
    for maker in (jaxnorm.warmup_renorm, jaxnorm.warmup_renorm(), lambda t: max):
        norm = jaxnorm.linen.BatchRenorm(r_max=maker, **options)
        with refused("r_max"):
            jax.eval_shape(
                functools.partial(norm.init_with_output, mutable=True), KEY, x
            )


def is_count(path):
    return jax.tree_util.keystr(path[-1:], simple=True) == "count"


@pytest.mark.parametrize(
    "name",
    matrix(
        TRAINED,
        often=(
            "BatchRenorm",
            "RecurrentBatchNorm",
            "MeanOnlyBatchNorm",
            "EvoNormB0",
            "InstanceBatchNorm",
        ),
    ),
)
def test_momentum_as_a_function_counts_updates(name, x):
    """With t / (t + 1) two updates give the average of both, and the counts add up."""
    entry = TABLE[name]
    module = entry.build(True, momentum=lambda t: t / (t + 1))
    init = functools.partial(entry.init, module, KEY, x)
    if not entry.counts:
        with pytest.raises(TypeError, match="momentum as a function"):
            jax.eval_shape(init)
        return
    rng = np.random.default_rng(0)

    def draw(path, leaf):  # whatever they are, they have no weight
        values = rng.uniform(0.3, 1.3, leaf.shape)
        return place(0 * values if is_count(path) else values, leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(init))

    @jax.jit
    def update(stats, x):
        changed = {**variables, "batch_stats": stats}
        return entry.apply(module, changed, x, mutable=COLLECTIONS)[1]["batch_stats"]

    later = jax.device_put(2 * np.asarray(x) + 1)
    first = update(variables["batch_stats"], x)
    second = update(variables["batch_stats"], later)
    both = update(first, later)

    def combine(path, a, b):
        a, b = np.asarray(a), np.asarray(b)
        return a + b if is_count(path) else (a + b) / 2

    close(both, jax.tree_util.tree_map_with_path(combine, first, second))
    paths = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(both)]
    statistic = "mean" if "mean" in paths else "var"
    assert paths.count("count") == paths.count(statistic) > 0


@pytest.mark.parametrize("name", ["BatchNorm", "BatchRenorm"])
def test_a_checkpoint_of_numpy_arrays_with_a_momentum_schedule(name, x):
    """Its count is a count too, outside of jit as well."""
    entry = TABLE[name]
    module = entry.build(True, momentum=jaxnorm.warmup_momentum())
    variables = jax.jit(module.init)(KEY, x)
    loaded = jax.tree.map(np.asarray, variables)
    _, updates = entry.apply(module, loaded, x, mutable=["batch_stats"])
    assert updates["batch_stats"]["count"] == 1
