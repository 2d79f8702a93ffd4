"""Momentum as a function of the number of updates, in every module that trains."""

import inspect

import family
import jax
import numpy as np
import pytest
from family import close
from family_entries import COLLECTIONS
from family_modules import TABLE

import jaxnorm
import jaxnorm.linen

KEY = jax.random.key(0)


@pytest.fixture
def x():
    return family.draw_arguments(family.TABLE["rms_norm"])[0]


TRAINED = [n for n in TABLE if "momentum" in inspect.signature(
    getattr(jaxnorm.linen, n)).parameters]  # fmt: skip


@pytest.mark.parametrize("name", TRAINED)
def test_momentum_as_a_function_counts_updates(name, x):
    """With t / (t + 1) two updates give the average of both, and the counts add up."""
    entry = TABLE[name]
    module = entry.build(True, momentum=lambda t: t / (t + 1))
    init = jax.jit(lambda key: module.init(key, x, *entry.extra))
    if not entry.counts:
        with pytest.raises(TypeError, match="momentum as a function"):
            jax.eval_shape(init, KEY)
        return
    variables = init(KEY)

    @jax.jit
    def update(stats, x):
        changed = {**variables, "batch_stats": stats}
        return entry.apply(module, changed, x, mutable=COLLECTIONS)[1]["batch_stats"]

    first = update(variables["batch_stats"], x)
    second = update(variables["batch_stats"], 2 * x + 1)
    both = update(first, 2 * x + 1)

    def combine(path, a, b):
        counts = jax.tree_util.keystr(path[-1:], simple=True) == "count"
        return a + b if counts else (a + b) / 2

    close(both, jax.tree_util.tree_map_with_path(combine, first, second))
    paths = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(both)]
    assert paths.count("count") == paths.count("mean")


@pytest.mark.parametrize("name", ["BatchNorm", "BatchRenorm"])
def test_a_checkpoint_of_numpy_arrays_with_a_momentum_schedule(name, x):
    """Its count is a count too, outside of jit as well."""
    entry = TABLE[name]
    module = entry.build(True, momentum=jaxnorm.warmup_momentum())
    variables = module.init(KEY, x)
    loaded = jax.tree.map(np.asarray, variables)
    _, updates = entry.apply(module, loaded, x, mutable=["batch_stats"])
    assert updates["batch_stats"]["count"] == 1
