"""Trees of moments merged, and of statistics moved towards them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawing import place
from support.jitted import jitted

import jaxnorm
from jaxnorm.tools import apply_batch_moments, merge_batch_moments

pytestmark = pytest.mark.usefixtures("annotations_checked")


def tree_of(x):
    return {"block": {"norm": moments_of(x)._asdict()}}


moments_of = jitted(jaxnorm.batch_moments)


@pytest.fixture
def x(rng):
    return place(rng.normal(3, 2, size=(30, 4)))


def test_merged_as_one_batch(x):
    parts = [tree_of(part) for part in np.split(np.asarray(x), [5, 7])]
    merged = jax.jit(merge_batch_moments)(parts)
    wide = np.asarray(x, np.float64)
    layer = merged["block"]["norm"]
    np.testing.assert_array_equal(layer["count"], 30)
    np.testing.assert_allclose(layer["mean"], wide.mean(0), rtol=1e-5)
    np.testing.assert_allclose(layer["var"], wide.var(0), rtol=1e-5)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_as_the_function_of_one_layer(x, momentum, unbiased):
    stats = jaxnorm.BatchStats(place(np.arange(4)), place(np.full(4, 3.0)))
    options = {"momentum": momentum, "unbiased": unbiased}
    update = jitted(jaxnorm.update_batch_stats, **options)
    expected = update(stats, moments_of(x))
    actual = jitted(apply_batch_moments, **options)(
        {"block": {"norm": stats._asdict(), "other": {"u": place(np.ones(2))}}},
        tree_of(x),
    )
    for name, value in expected._asdict().items():
        np.testing.assert_array_equal(actual["block"]["norm"][name], value)
    np.testing.assert_array_equal(actual["block"]["other"]["u"], 1)


def test_counted_statistics_and_a_schedule(x):
    def momentum(count):
        return count / (count + 1)

    stats = jaxnorm.init_batch_stats(4, counted=True)._replace(count=place(3.0))
    update = jitted(jaxnorm.update_batch_stats, momentum=momentum)
    expected = update(stats, moments_of(x))
    tree = {"block": {"norm": stats._asdict()}}
    new = jitted(apply_batch_moments, momentum=momentum)(tree, tree_of(x))
    layer = new["block"]["norm"]
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(layer[name], value, rtol=1e-6)


def test_statistics_of_time_steps(x):
    # Those of a step that saw nothing stay, and so does their count.
    stats = jaxnorm.init_recurrent_stats(2, 4, counted=True)
    moments = jax.tree.map(
        lambda leaf: np.stack([np.zeros_like(leaf), leaf]), moments_of(x)
    )
    update = jitted(apply_batch_moments, momentum=0.0)
    new = jax.device_get(update(stats._asdict(), moments._asdict()))
    x = np.asarray(x, np.float64)
    np.testing.assert_array_equal(new["count"], [0, 1])
    np.testing.assert_array_equal(new["mean"][0], 0)
    np.testing.assert_allclose(new["mean"][1], x.mean(0), rtol=1e-5)


def test_batch_renorm_as_its_own_update(x):
    stats = jaxnorm.init_renorm_stats(4)
    options = {"momentum": 0.3, "epsilon": 1e-2}
    _, expected = jitted(
        jaxnorm.batch_renorm,
        r_max=1.0,
        d_max=0.0,
        use_running_average=False,
        **options,
    )(x, stats)
    tree = {"block": {"norm": stats._asdict()}}
    new = jitted(apply_batch_moments, **options)(tree, tree_of(x))["block"]["norm"]
    for name, value in expected._asdict().items():
        np.testing.assert_allclose(new[name], value, rtol=1e-5)


def test_a_stream_takes_the_place_of_another(x):
    """Nothing is added any more to what its mean and variance were."""
    rest = place(np.full(4, 1e-3))
    stream = jaxnorm.init_running_moments(4)
    stream = stream._replace(count_rest=rest, mean_rest=rest, var_rest=rest)
    moments = moments_of(x)
    new = apply_batch_moments(
        {"norm": stream._asdict()}, {"norm": moments._asdict()}, momentum=0.0
    )
    new = jaxnorm.RunningMoments(**new["norm"])
    np.testing.assert_array_equal(new.mean, moments.mean)
    np.testing.assert_array_equal(new.var, moments.var)
    np.testing.assert_array_equal(new.count, moments.count)
    for rest in (new.count_rest, new.mean_rest, new.var_rest):
        np.testing.assert_array_equal(rest, 0)


def test_a_stream_that_was_recalibrated_goes_on(x):
    """What was recalibrated weighs as much as the data that it is of."""
    start = {"norm": jaxnorm.init_running_moments(4)._asdict()}
    moments = moments_of(x)
    new = apply_batch_moments(start, {"norm": moments._asdict()}, momentum=0.0)
    others = x + 3
    _, after = jaxnorm.running_norm(
        others, jaxnorm.RunningMoments(**new["norm"]), update=True
    )
    seen = np.concatenate([x, others]).reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(after.mean, seen.mean(0), rtol=1e-5)
    np.testing.assert_allclose(after.var, seen.var(0), rtol=1e-5)


def test_a_stream_stays_where_nothing_was_seen(x):
    start = {"norm": jaxnorm.init_running_moments(4)._asdict()}
    start["norm"]["count"] = place(np.full(4, 7))
    empty = jaxnorm.Moments(*(place(np.zeros(4)) for _ in range(3)))
    new = apply_batch_moments(start, {"norm": empty._asdict()}, momentum=0.0)
    np.testing.assert_array_equal(new["norm"]["count"], 7)


@pytest.mark.parametrize("name", ["mean", "var"])
def test_one_statistic_alone(x, name):
    tree = {"block": {"norm": {name: place(np.zeros(4))}}}
    new = jitted(apply_batch_moments, momentum=0.0)(tree, tree_of(x))["block"]["norm"]
    assert set(new) == {name}
    expected = getattr(moments_of(x), name)
    np.testing.assert_array_equal(new[name], expected)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: merge_batch_moments([]), ValueError, "at least one"),
        (
            lambda x: merge_batch_moments([tree_of(x), {"block": {}}]),
            ValueError,
            "block/norm has statistics in one tree",
        ),
        (
            lambda x: merge_batch_moments([{"norm": {"mean": x, "var": x}}] * 2),
            ValueError,
            "lacks count",
        ),
        (
            lambda x: apply_batch_moments(
                {"norm": {"mean": jnp.zeros(4)}}, tree_of(x), momentum=0.0
            ),
            ValueError,
            "norm has statistics",
        ),
        (
            lambda x: apply_batch_moments(
                {"block": {"norm": {"mean": jnp.zeros(4)}}}, tree_of(x), momentum=2.0
            ),
            ValueError,
            "momentum",
        ),
        (
            lambda x: apply_batch_moments(
                {"block": {"norm": {"mean": jnp.zeros(4)}}},
                tree_of(x),
                momentum=jaxnorm.warmup_momentum(),
            ),
            TypeError,
            "count",
        ),
    ],
)
def test_bad_input(x, call, error, message):
    with pytest.raises(error, match=message):
        call(x)


def test_the_old_name():
    with pytest.warns(DeprecationWarning, match="apply_batch_moments"):
        assert jaxnorm.tools.update_batch_stats is apply_batch_moments
