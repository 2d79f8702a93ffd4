"""The moments of a batch, their merging, and the running statistics."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.drawing import place
from support.jitted import jitted
from support.tiers import diagonal, in_full, matrix

import jaxnorm

SHAPES = {  # shape, feature axes
    "dense": ((6, 5), -1),
    "image": ((4, 3, 2, 5), 3),
    "channels first": ((4, 5, 3, 2), 1),
    "first axis": ((5, 7), 0),
    "negative axis": ((4, 5, 3), -2),
    "two axes": ((4, 6, 3, 5), (1, 3)),
    "two axes in descending order": ((4, 6, 3), (-1, 0)),
    "nothing to reduce": ((5,), 0),
}
MASKS = [None, "bool", "integer", "weights", "examples", "lower rank", "empty"]


def batch_moments(x, *, mask=None, shift=None, **static):
    return jitted(jaxnorm.batch_moments, **static)(x, mask=mask, shift=shift)


def check(moments, expected, tolerance=3e-6):
    for actual, value in zip(moments, expected, strict=True):
        assert oracles.error(actual, value) <= tolerance


def check_beside_the_floor(moments, expected, tolerance=3e-6):
    """As one pass from shift 0 promises: the variance to the rounding of mean^2."""
    assert oracles.error(moments.count, expected[0]) == 0
    assert oracles.error(moments.mean, expected[1]) <= tolerance
    largest = np.max(np.abs(expected[1]) ** 2 + expected[2])
    assert np.max(np.abs(moments.var - expected[2])) <= tolerance * largest


@pytest.mark.parametrize(
    ("name", "fast"),
    matrix(itertools.product(SHAPES, (True, False)), diagonal(SHAPES, (True, False))),
)
def test_axes(name, fast, rng):
    shape, feature_axes = SHAPES[name]
    x = rng.normal(0.5, 2, shape).astype(np.float32)
    moments = batch_moments(x, feature_axes=feature_axes, use_fast_variance=fast)
    assert isinstance(moments, jaxnorm.Moments)
    expected = oracles.moments(x, feature_axes=feature_axes)
    (check_beside_the_floor if fast else check)(moments, expected)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("kind", MASKS)
def test_masks(kind, fast, rng, make_mask):
    x = rng.normal(0.5, 2, (6, 4, 5)).astype(np.float32)
    mask = make_mask(kind, x.shape)
    if kind is not None:
        bad = rng.choice(np.float32([np.nan, np.inf, -np.inf, 9]), x.shape)
        x = np.where(np.broadcast_to(mask, x.shape) == 0, bad, x)
    moments = batch_moments(x, mask=mask, use_fast_variance=fast)
    expected = oracles.moments(x, mask=mask)
    assert oracles.error(moments.count, expected[0]) <= 1e-6
    if kind == "empty":
        assert np.isfinite(moments.mean).all() and np.isfinite(moments.var).all()
    else:
        check(moments, expected)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    "dtype, mean_dtype, wide, tolerance",
    [
        ("float16", "float32", "float32", 1e-5),
        in_full(("bfloat16", "float32", "float32", 1e-5)),
        ("float32", "float32", "float32", 1e-5),
        ("float64", "float64", "float64", 5e-13),
        ("complex64", "complex64", "float32", 1e-5),
        in_full(("complex128", "complex128", "float64", 5e-13)),
    ],
)
def test_dtypes(dtype, mean_dtype, wide, tolerance, fast, rng, x64):
    # Sum, sum of squares and count are beyond what 16 bits hold. The order of a sum of
    # 3,200 numbers depends on the processor, and with it the last two digits.
    x = rng.normal(30, 10, (64, 50, 2))
    if dtype.startswith("complex"):
        x = x + 1j * rng.normal(-20, 5, x.shape)
    x = place(x, dtype)
    moments = batch_moments(x, use_fast_variance=fast)
    assert moments.count.dtype == moments.var.dtype == wide
    assert moments.mean.dtype == mean_dtype
    check(moments, oracles.moments(x), 4 * tolerance if fast else tolerance)


@pytest.mark.parametrize("ratio", [0, 1, 10, 1e2, 1e3, 1e4])
def test_accuracy_beside_the_shift(ratio, rng):
    std = np.geomspace(0.1, 10, 8)
    mean = ratio * std * np.resize([1, -1], 8)
    x = rng.normal(mean, std, (256, 8)).astype(np.float32)
    expected = oracles.moments(x)
    for options in (
        {"shift": (mean + std / 2).astype(np.float32)},
        {"use_fast_variance": False},
    ):
        check(batch_moments(x, **options), expected, 1e-5)


@pytest.mark.parametrize("fast", [True, False])
def test_moments_do_not_depend_on_the_shift(fast, rng):
    x = rng.normal(2, 1, (64, 3)).astype(np.float32)
    shift = np.array([-3, 0, 5], np.float32)
    moments = batch_moments(x, shift=shift, use_fast_variance=fast)
    # One pass about a shift that is 5 deviations off loses the digits of 26.
    check(moments, oracles.moments(x), 1e-4 if fast else 1e-5)


@pytest.mark.parametrize("fast", [True, False])
def test_gradients_match_the_oracle_under_a_nan_mask(fast, rng, make_mask):
    """Plain differentiation goes through the moments, and not into masked NaN."""
    x = rng.normal(0.5, 2, (6, 5)).astype(np.float32)
    mask = np.asarray(make_mask("bool", x.shape))
    dmean, dvar = rng.normal(size=(2, 5)).astype(np.float32)

    def total(x):
        moments = batch_moments(x, mask=mask, use_fast_variance=fast)
        return jnp.sum(dmean * moments.mean) + jnp.sum(dvar * moments.var)

    count, mean, _ = oracles.moments(x, mask=mask)
    expected = mask / count * (dmean + 2 * dvar * (x - mean))
    actual = jax.jit(jax.grad(total))(np.where(mask, x, np.float32(np.nan)))
    assert oracles.error(actual, expected) <= 1e-5


def test_a_clamped_variance_has_no_gradient(rng):
    """Nor through the floor itself, which follows the mean."""
    x = rng.normal(1e4, 1e-2, (8, 3)).astype(np.float32)

    def total(x):
        return jnp.sum(batch_moments(x).var)

    assert total(x) > 100
    np.testing.assert_array_equal(jax.grad(total)(x), 0)


# ---- merging


@jax.jit
def parts_of(x, owner):
    """The moments of the rows of each of four owners; the fourth has none."""
    return [
        jaxnorm.batch_moments(x, mask=(owner == i)[:, None], use_fast_variance=False)
        for i in range(4)
    ]


owners = st.lists(st.integers(0, 2), min_size=12, max_size=12).map(np.array)
seeds = st.integers(0, 2**32 - 1)
offsets = st.floats(-50, 50)


def draw_parts(seed, offset, owner):
    generator = np.random.default_rng(seed)
    drift = generator.normal(size=(12, 1))  # so that the parts differ
    x = (generator.normal(offset, 1, (12, 3)) + drift).astype(np.float32)
    return x, parts_of(x, owner)


merge = jax.jit(jaxnorm.merge_moments)


@given(seeds, offsets, owners)
def test_any_split_equals_the_whole(seed, offset, owner):
    x, parts = draw_parts(seed, offset, owner)
    check(functools.reduce(merge, parts), oracles.moments(x), 1e-4)


@given(seeds, offsets, owners)
def test_merge_is_associative_and_commutative(seed, offset, owner):
    _, (a, b, c, _) = draw_parts(seed, offset, owner)
    if np.any(owner < 2):  # the mean of nothing at all is anything
        check(merge(a, b), merge(b, a), 1e-4)
    check(merge(merge(a, b), c), merge(a, merge(b, c)), 1e-4)


@given(seeds, offsets, owners)
def test_count_zero_is_the_identity(seed, offset, owner):
    _, (a, b, c, nothing) = draw_parts(seed, offset, owner)
    for part in (a, b, c):
        for merged in (merge(part, nothing), merge(nothing, part)):
            np.testing.assert_array_equal(merged.count, part.count)
            if np.asarray(part.count)[0] > 0:
                check(merged, part, 0)
            else:
                assert all(np.all(np.isfinite(m)) for m in merged)


def test_moments_of_nothing_may_be_anything(rng):
    part = batch_moments(rng.normal(size=(8, 3)).astype(np.float32))
    nan = jnp.full(3, jnp.nan)
    nothing = jaxnorm.Moments(jnp.zeros(3), nan, nan)
    for merged in (merge(part, nothing), merge(nothing, part)):
        check(merged, part, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_moments_of_nothing_have_no_derivative(bad, rng):
    """Nor do they take those of the others."""
    part = batch_moments(rng.normal(size=(8, 3)).astype(np.float32))
    nothing = jaxnorm.Moments(jnp.zeros(3), *[jnp.full(3, bad, jnp.float32)] * 2)

    def total(*parts):
        merged = jaxnorm.merge_moments(*parts)
        return jnp.sum(merged.mean) + jnp.sum(merged.var)

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    for actual in (gradient(part, nothing), gradient(nothing, part)[::-1]):
        for moments, value in zip(actual, (1, 0), strict=True):
            np.testing.assert_array_equal(moments.mean, np.full(3, value))
            np.testing.assert_array_equal(moments.var, np.full(3, value))


def test_a_small_part_that_is_far_off_keeps_its_share():
    """Of a mean and a variance that the large part has not."""
    counts, means, variances = [1, 2**26], [2.0**40, 1.0], [2.0**60, 1.0]
    parts = [
        jaxnorm.Moments(*map(place, values))
        for values in zip(counts, means, variances, strict=True)
    ]
    share = np.float64(counts) / np.sum(counts)
    mean = np.sum(share * means)
    var = np.sum(share * (variances + np.square(means - mean)))
    for merged in (merge(*parts), merge(*parts[::-1])):
        np.testing.assert_allclose(merged.mean, mean, rtol=1e-6)
        np.testing.assert_allclose(merged.var, var, rtol=1e-6)


def test_merge_keeps_a_common_offset_exactly(rng):
    """Averages of mean^2 would lose the variance at such an offset."""
    x = rng.normal(1e4, 1, (256, 4)).astype(np.float32)
    moments = functools.partial(batch_moments, use_fast_variance=False)
    whole = merge(moments(x[:100]), moments(x[100:]))
    # The rounding of a float32 mean at 1e4 is 5e-4, so that is what merging costs.
    assert oracles.error(whole.var, oracles.moments(x)[2]) <= 1e-3


# ---- running statistics


def test_initial_statistics():
    stats = jaxnorm.init_batch_stats((3, 2))
    assert isinstance(stats, jaxnorm.BatchStats)
    assert stats.mean.shape == stats.var.shape == (3, 2)
    assert stats.mean.dtype == stats.var.dtype == jnp.float32
    assert np.all(np.asarray(stats.mean) == 0) and np.all(np.asarray(stats.var) == 1)
    counted = jaxnorm.init_batch_stats((3,), dtype=jnp.bfloat16, counted=True)
    assert isinstance(counted, jaxnorm.CountedBatchStats)
    assert counted.mean.dtype == counted.var.dtype == jnp.bfloat16
    assert counted.count.dtype == jnp.float32 and counted.count == 0


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("traced", [False, True])
def test_update(momentum, unbiased, traced, rng):
    stats = jaxnorm.BatchStats(*map(place, rng.uniform(1, 2, (2, 4))))
    counts = np.array([0, 1, 2, 10], np.float32)
    mean, var = rng.uniform(3, 4, (2, 4)).astype(np.float32)
    moments = jaxnorm.Moments(*map(jnp.asarray, (counts, mean, var)))
    update = functools.partial(jaxnorm.update_batch_stats, unbiased=unbiased)
    if traced:
        new = jax.jit(lambda m: update(stats, moments, momentum=m))(momentum)
    else:
        new = jax.jit(lambda: update(stats, moments, momentum=momentum))()
    bessel = np.array([1, 1, 2, 10 / 9]) if unbiased else 1
    for actual, old, batch in zip(new, stats, (mean, var * bessel), strict=True):
        moved = momentum * np.asarray(old) + (1 - momentum) * batch
        assert oracles.error(actual, np.where(counts > 0, moved, old)) <= 1e-6
        assert (
            np.asarray(actual)[0] == np.asarray(old)[0]
        )  # nothing was seen, nothing moves


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float64])
def test_update_keeps_the_dtype(dtype, rng, x64):
    stats = jaxnorm.init_batch_stats((3,), dtype=dtype)
    moments = batch_moments(rng.normal(3, 1, (8, 3)).astype(np.float32))
    new = jitted(jaxnorm.update_batch_stats, momentum=0.5)(stats, moments)
    assert new.mean.dtype == new.var.dtype == dtype
    tolerance = max(1e-6, float(jnp.finfo(dtype).eps))
    assert oracles.error(new.mean, np.asarray(moments.mean) / 2) <= tolerance


def test_complex_moments_make_the_running_mean_complex(rng):
    x = (rng.normal(size=(8, 3)) + 1j * rng.normal(size=(8, 3))).astype(np.complex64)
    stats = jaxnorm.init_batch_stats((3,))
    new = jitted(jaxnorm.update_batch_stats, momentum=0.5)(stats, batch_moments(x))
    assert new.mean.dtype == jnp.complex64 and new.var.dtype == jnp.float32
    assert oracles.error(new.mean, x.mean(0) / 2) <= 1e-5


@pytest.mark.parametrize(
    "schedule, expected",
    [
        (jaxnorm.warmup_momentum(), [0.1, 2 / 11, 3 / 12, 4 / 13]),
        (jaxnorm.warmup_momentum(0.2), [0.1, 2 / 11, 0.2, 0.2]),
        (lambda count: count / (count + 1), [0, 1 / 2, 2 / 3, 3 / 4]),
    ],
)
def test_momentum_as_a_function_of_the_count(schedule, expected, rng):
    stats = jaxnorm.init_batch_stats((3,), counted=True)
    update = jax.jit(functools.partial(jaxnorm.update_batch_stats, momentum=schedule))
    mean, var = np.zeros(3), np.ones(3)
    for step, momentum in enumerate(expected):
        assert stats.count == step
        x = rng.normal(2, 3, (8, 3)).astype(np.float32)
        _, batch_mean, batch_var = oracles.moments(x)
        mean = momentum * mean + (1 - momentum) * batch_mean
        var = momentum * var + (1 - momentum) * batch_var
        stats = update(stats, batch_moments(x))
        assert oracles.error(stats.mean, mean) <= 1e-5
        assert oracles.error(stats.var, var) <= 1e-5
    assert stats.count.dtype == jnp.float32
