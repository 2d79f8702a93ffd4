"""Statistics of replicas merged: as those of the pooled data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from support.drawing import ones, place, zeros
from support.jitted import jitted
from support.refusals import refused

from jaxnorm.tools import merge_batch_stats

pytestmark = pytest.mark.usefixtures("annotations_checked")

SIZES = (4, 9, 3, 7, 12, 5, 8, 2)  # of the data of eight replicas


@pytest.fixture
def parts(rng):
    return [
        place(rng.normal(10 * i, 1 + i, size=(size, 3))) for i, size in enumerate(SIZES)
    ]


def tree_of(x):
    wide = np.float64(x)
    return {
        "norm": {"mean": place(wide.mean(0)), "var": place(wide.var(0))},
        "empty": {},
    }


def check(layer, parts):
    pooled = np.concatenate(parts).astype(np.float64)
    np.testing.assert_allclose(layer["mean"], pooled.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer["var"], pooled.var(0), rtol=1e-5)


def test_as_the_pooled_data(parts):
    merge = jitted(merge_batch_stats, counts=SIZES)
    merged = merge([tree_of(x) for x in parts])
    check(merged["norm"], parts)


@pytest.mark.parametrize("array", [np.array, jnp.array])
def test_counts_as_an_array(array, parts):
    trees = [tree_of(x) for x in parts]
    check(merge_batch_stats(trees, counts=array(SIZES))["norm"], parts)
    merged = jax.jit(lambda trees, counts: merge_batch_stats(trees, counts=counts))(
        trees, array(SIZES)
    )
    check(merged["norm"], parts)


def test_counts_are_equal_by_default(parts):
    parts = [np.asarray(x)[:2] for x in parts]
    merged = jax.jit(merge_batch_stats)([tree_of(x) for x in parts])
    check(merged["norm"], parts)


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def test_in_pmap(parts):
    merged = jax.pmap(
        lambda tree, count: merge_batch_stats(tree, counts=count, axis_name="replica"),
        axis_name="replica",
    )(stack([tree_of(x) for x in parts]), place(SIZES, np.int32))
    merged = jax.device_get(merged)
    for replica in range(8):
        check(jax.tree.map(lambda x, i=replica: x[i], merged["norm"]), parts)


@pytest.mark.parametrize("check_vma", [True, False])
def test_in_shard_map(parts, check_vma):
    mesh = jax.make_mesh((8,), ("replica",), (AxisType.Auto,))

    def merge(tree, count):
        tree, count = jax.tree.map(lambda x: x[0], (tree, count))
        return merge_batch_stats(tree, counts=count, axis_name="replica")

    merged = jax.jit(
        jax.shard_map(
            merge,
            mesh=mesh,
            in_specs=P("replica"),
            out_specs=P(),
            check_vma=check_vma,
        )
    )(stack([tree_of(x) for x in parts]), place(SIZES, np.int32))
    check(merged["norm"], parts)


def test_std_count_and_a_mean_alone_are_merged(parts):
    trees = []
    for number, x in enumerate(parts[:2]):
        mean, var = (tree_of(x)["norm"][name] for name in ("mean", "var"))
        count, std = place(10.0 * number), place(np.sqrt(var))
        trees.append(
            {
                "renorm": {"mean": mean, "std": std, "count": count},
                "mean_only": {"mean": mean},
                "half": {"mean": place(mean, jnp.bfloat16), "var": var},
            }
        )
    merged = jitted(merge_batch_stats, counts=SIZES[:2])(trees)
    renorm = merged["renorm"]
    check({"mean": renorm["mean"], "var": np.square(renorm["std"])}, parts[:2])
    np.testing.assert_allclose(renorm["count"], 10 * 9 / 13, rtol=1e-5)
    pooled = np.concatenate(parts[:2])
    np.testing.assert_allclose(merged["mean_only"]["mean"], pooled.mean(0), rtol=1e-5)
    assert merged["half"]["mean"].dtype == jnp.bfloat16


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_replica_without_data_is_ignored(bad, parts):
    """Whatever its statistics are, those beside it and their derivatives."""
    good = tree_of(parts[0])
    empty = jax.tree.map(lambda leaf: np.full_like(leaf, bad), good)

    def total(*trees):
        merged = merge_batch_stats(trees, counts=[3, 0])["norm"]
        return jnp.sum(merged["mean"]) + jnp.sum(merged["var"]), merged

    gradients, merged = jax.jit(jax.grad(total, (0, 1), has_aux=True))(good, empty)
    check(merged, parts[:1])
    for gradient, value in zip(gradients, (1, 0), strict=True):
        for leaf in jax.tree.leaves(gradient):
            np.testing.assert_allclose(leaf, np.full(3, value), rtol=1e-6)


@pytest.mark.parametrize("count", ["2", None, 1j, np.ones(2)])
@pytest.mark.usefixtures("as_users_run_it")
def test_counts_are_numbers(count, parts):
    trees = [tree_of(x) for x in parts[:2]]
    with refused("counts", str(np.shape(count)) if np.shape(count) else repr(count)):
        merge_batch_stats(trees, counts=[count, 1])


@pytest.mark.parametrize("counts", [[0, 0], [2, -1], [2, np.nan], [np.inf, 1]])
@pytest.mark.parametrize("traced", [False, True])
def test_counts_that_are_none(counts, traced, parts):
    """Traced ones are not known in time, so that all comes out NaN."""
    trees = [tree_of(x) for x in parts[:2]]
    if not traced:
        with refused("counts", "at least 0"):
            merge_batch_stats(trees, counts=counts)
        return
    step = jax.jit(lambda trees, counts: merge_batch_stats(trees, counts=counts))
    merged = step(trees, [jnp.float32(count) for count in counts])
    for leaf in jax.tree.leaves(merged):
        assert np.all(np.isnan(leaf))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ([], {}, "at least one"),
        ({"norm": {"mean": zeros(1)}}, {}, "axis_name"),
        ([{"norm": {"mean": zeros(1)}}] * 2, {"counts": [1]}, "one number for each"),
        ([{"norm": {"mean": zeros(1)}}] * 2, {"counts": 3}, "one number for each"),
        (
            [{"norm": {"mean": zeros(1)}}] * 2,
            {"counts": ones(3)},
            "one number for each",
        ),
        ([{"norm": {"mean": zeros(1)}}, {}], {}, "norm has statistics"),
        (
            [{"n": {"mean": zeros(1)}}, {"n": {"var": ones(1)}}],
            {},
            "same statistics",
        ),
        ([{"evo": {"var": ones(1)}}] * 2, {}, "evo must .* a variance without"),
        ([{"params": {}, "batch_stats": {}}] * 2, {}, "variables of a whole model"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        merge_batch_stats(arguments, **options)


def test_an_iterator_of_trees(as_users_run_it):
    with refused("trees", "generator", "list(trees)"):
        merge_batch_stats({"norm": {"mean": zeros(1)}} for _ in range(2))
