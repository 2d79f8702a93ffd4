"""Batch normalization on one device: values, statistics, gradients, transforms."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import oracle
import pytest

import jaxnorm

CASES = {  # shape, feature axes, mask, shapes of scale and bias
    "dense": ((8, 5), -1, None, (5,), (5,)),
    "no affine part": ((8, 5), -1, "bool", None, None),
    "scale only": ((8, 5), -1, None, (5,), None),
    "bias only": ((8, 5), -1, "bool", None, (5,)),
    "image": ((4, 3, 2, 5), -1, "bool", (5,), (5,)),
    "channels first": ((4, 5, 3, 2), 1, "integer", (5,), (5,)),
    "two feature axes": ((4, 3, 5, 2), (3, 1), "weights", (3, 2), (3, 2)),
    "shared, of full rank": ((4, 3, 5), 2, "weights", (1, 1, 5), (1, 1, 1)),
    "per example": ((4, 3, 5), -1, "bool", (4, 1, 5), (4, 1, 1)),
    "per element": ((4, 3, 5), -1, "weights", (4, 3, 5), (5,)),
    "mask of examples": ((4, 3, 5), -1, "examples", (5,), (4, 1, 5)),
    "mask of lower rank": ((4, 6, 5), -1, "lower rank", (5,), (5,)),
    "a feature without elements": ((4, 3, 5), -1, "empty feature", (5,), (5,)),
    "nothing but masked": ((4, 3, 5), -1, "empty", (4, 1, 5), (5,)),
    "one element": ((1, 5), -1, None, (5,), (5,)),
    "nothing to reduce": ((5,), 0, None, (5,), (5,)),
}
train = functools.partial(jaxnorm.batch_norm, use_running_average=False)
cold = jaxnorm.init_batch_stats


def draw(rng, shape, dtype=np.float32, loc=0.0, std=1.0):
    """Random numbers, rounded to the dtype; None for the shape None."""
    if shape is None:
        return None
    values = rng.normal(loc, std, shape)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        values = values + 1j * rng.normal(-loc, std, shape)
    return jnp.asarray(values, dtype)


def draw_stats(rng, shape, dtype=np.float32):
    mean, var = rng.normal(0.3, 0.2, shape), rng.uniform(0.5, 2, shape)
    return jaxnorm.BatchStats(jnp.asarray(mean, dtype), jnp.asarray(var, dtype))


def check(x, stats, scale, bias, weight, tolerance, momentum=0.9, **options):
    """Compare y, statistics and gradients of sum(Re(conj(weight) y)); return y."""
    options = {"use_running_average": False} | options

    @jax.jit
    def step(x, scale, bias):
        def loss(x, scale, bias):
            y, new = jaxnorm.batch_norm(
                x, stats, scale, bias, momentum=momentum, **options
            )
            return jnp.sum(jnp.real(jnp.conj(weight) * y)), (y, new)

        gradients, aux = jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)
        return *aux, jax.tree.map(jnp.conj, gradients)

    y, new, gradients = step(x, scale, bias)
    actual = (y, new.mean, new.var, *gradients)
    reference = {k: v for k, v in options.items() if k not in ("unbiased", "dtype")}
    expected = oracle.batch_norm_gradients(weight, x, *stats, scale, bias, **reference)
    if "unbiased" in options:
        reference["unbiased"] = options["unbiased"]
    expected = (
        *oracle.batch_norm(x, *stats, scale, bias, momentum=momentum, **reference),
        *expected,
    )
    names = ("y", "mean", "var", "dx", "dscale", "dbias")
    for name, value, wanted in zip(names, actual, expected, strict=True):
        if wanted is None:
            assert value is None
        else:
            assert oracle.error(value, wanted) <= tolerance, name
    chex.assert_trees_all_equal_dtypes(gradients, (x, scale, bias))
    return y, new


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_oracle(name, inference, rng, make_mask):
    shape, feature_axes, mask, scale, bias = CASES[name]
    feature_shape = tuple(np.take(shape, np.sort(np.atleast_1d(feature_axes))))
    check(
        draw(rng, shape, loc=0.5, std=2),
        draw_stats(rng, feature_shape),
        draw(rng, scale, loc=1),
        draw(rng, bias),
        draw(rng, shape),
        1e-5,
        epsilon=0.03,
        use_running_average=inference,
        feature_axes=feature_axes,
        mask=make_mask(mask, shape),
    )


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize(
    "dtype, affine, stats, option, output, tolerance",
    [
        ("bfloat16", "bfloat16", "float32", None, "bfloat16", 1e-2),
        ("bfloat16", "float32", "float32", None, "float32", 1e-2),
        ("float32", "bfloat16", "float32", None, "float32", 1e-2),
        ("float32", "float32", "float32", "bfloat16", "bfloat16", 1e-2),
        ("float32", "float32", "float32", "float64", "float64", 1e-5),
        ("bfloat16", "float32", "bfloat16", "float16", "float16", 1e-2),
        ("float16", "float16", "float32", None, "float16", 2e-3),
        ("float16", "bfloat16", "float32", None, "float32", 1e-2),
        ("float64", "float64", "float64", None, "float64", 1e-12),
        ("float64", "float32", "float32", None, "float64", 1e-6),
        ("complex64", "float32", "complex", None, "complex64", 1e-5),
        ("complex64", "complex64", "complex", None, "complex64", 1e-5),
        ("float32", "complex64", "float32", None, "complex64", 1e-5),
        ("complex64", "float32", "float32", "complex128", "complex128", 1e-5),
    ],
)
def test_dtypes(
    dtype, affine, stats, option, output, tolerance, inference, rng, make_mask, x64
):
    stats_dtype = jnp.dtype("float32" if stats == "complex" else stats)
    running = draw_stats(rng, 5, stats_dtype)
    if stats == "complex":
        running = running._replace(mean=draw(rng, 5, jnp.complex64))
    y, new = check(
        draw(rng, (16, 3, 5), jnp.dtype(dtype), loc=0.5, std=2),
        running,
        draw(rng, 5, jnp.dtype(affine), loc=1),
        draw(rng, 5, jnp.dtype(affine)),
        draw(rng, (16, 3, 5), jnp.dtype(output)),
        tolerance,
        use_running_average=inference,
        mask=make_mask("bool", (16, 3, 5)),
        dtype=option and jnp.dtype(option),
    )
    assert y.dtype == output
    assert new.var.dtype == stats_dtype
    complex_mean = dtype == "complex64" and (not inference or stats == "complex")
    assert new.mean.dtype == ("complex64" if complex_mean else stats_dtype)


@pytest.mark.parametrize("name", ["image", "two feature axes", "per example"])
def test_moments_and_normalize_by_hand(name, rng, make_mask):
    """The two public halves, under plain differentiation, are the same function."""
    shape, feature_axes, mask, *affine = CASES[name]
    mask = make_mask(mask, shape)
    x, scale, bias = arguments = [draw(rng, s) for s in (shape, *affine)]
    weight = draw(rng, shape)

    @jax.jit
    def step(*arguments):
        def by_hand(x, scale, bias):
            _, mean, var = jaxnorm.batch_moments(
                x, feature_axes=feature_axes, mask=mask
            )
            y = jaxnorm.normalize(
                x, mean, var, scale, bias, epsilon=0.03, feature_axes=feature_axes
            )
            return jnp.sum(y * weight), y

        return jax.grad(by_hand, (0, 1, 2), has_aux=True)(*arguments)

    gradients, y = step(*arguments)
    _, mean, var = oracle.moments(x, feature_axes=feature_axes, mask=mask)
    options = {"epsilon": 0.03, "feature_axes": feature_axes, "mask": mask}
    expected = oracle.batch_norm(x, mean, var, scale, bias, **options)[0]
    assert oracle.error(y, expected) <= 1e-5
    expected = oracle.batch_norm_gradients(weight, x, mean, var, scale, bias, **options)
    for actual, wanted in zip(gradients, expected, strict=True):
        assert oracle.error(actual, wanted) <= 1e-5


# ---- accuracy: the oracle sees the same float32 numbers


@functools.cache
def train_jitted(fast):
    return jax.jit(functools.partial(train, momentum=0.0, use_fast_variance=fast))


def offset_batch(rng, ratio):
    std = np.geomspace(0.1, 10, 8)
    mean = ratio * std * np.resize([1, -1], 8)
    return mean, std, draw(rng, (256, 8), loc=mean, std=std)


@pytest.mark.parametrize(
    "running, fast, ratio, tolerance",
    [
        (running, fast, ratio, tolerance)
        for running, fast, ratios, tolerance in [
            ("warm", True, (0, 1, 10, 1e2, 1e3, 1e4), 1e-5),
            ("warm", False, (0, 1, 10, 1e2, 1e3, 1e4), 1e-5),
            ("cold", False, (0, 1, 10, 1e2, 1e3, 1e4), 1e-5),
            ("cold", True, (0, 1, 10, 30), 5e-4),
        ]
        for ratio in ratios
    ],
)
def test_accuracy(running, fast, ratio, tolerance, rng):
    mean, std, x = offset_batch(rng, ratio)
    stats = cold((8,))
    if running == "warm":
        near = mean + rng.uniform(-1, 1, 8) * std
        stats = jaxnorm.BatchStats(*jnp.asarray([near, std**2], jnp.float32))
    expected, _, var = oracle.batch_norm(x, *stats, momentum=0)
    y, new = train_jitted(fast)(x, stats)
    assert np.max(np.abs(y - expected)) <= tolerance
    assert np.max(np.abs(new.var / var - 1)) <= tolerance


@pytest.mark.parametrize("ratio", [1e2, 1e3, 1e4, 1e6])
def test_a_cold_start_never_explodes(ratio, rng):
    _, _, x = offset_batch(rng, ratio)
    y, new = train_jitted(True)(x, cold((8,)))
    assert np.max(np.abs(y)) < 10  # which NaN is not
    assert np.all(np.isfinite(new.mean)) and np.all(np.isfinite(new.var))
    assert np.all(new.var > 0)


def test_poisoned_statistics_do_not_reach_the_output(rng):
    x, weight = draw(rng, (16, 5), loc=1), draw(rng, (16, 5))
    bad = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 0, 0], jnp.float32)

    @jax.jit
    def step(x, stats):
        y, pullback, new = jax.vjp(lambda x: train(x, stats), x, has_aux=True)
        return (y, *pullback(weight)), new

    healthy, _ = step(x, cold((5,)))
    for stats in (
        jaxnorm.BatchStats(bad, jnp.ones(5)),
        jaxnorm.BatchStats(jnp.zeros(5), bad),
        jaxnorm.BatchStats(bad, bad),
    ):
        chex.assert_trees_all_close(step(x, stats)[0], healthy, atol=1e-6)
        assert np.all(np.isfinite(step(x, stats)[1].mean[3:]))


# ---- masks and guards


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("used", ["all", "valid"])
@pytest.mark.parametrize("kind", ["bool", "weights", "empty feature"])
def test_not_finite_under_the_mask(kind, used, inference, rng, make_mask):
    """It comes out as the bias and is a constant: its cotangent reaches no x."""
    mask = np.broadcast_to(make_mask(kind, (6, 4, 5)), (6, 4, 5))
    bad = rng.choice([np.nan, np.inf, -np.inf, 2.0], mask.shape)
    hit = (mask == 0) & ~np.isfinite(bad)
    weight, bias = draw(rng, mask.shape), draw(rng, 5)
    y, _ = check(
        jnp.where(hit, bad.astype(np.float32), draw(rng, mask.shape, loc=2)),
        draw_stats(rng, 5),
        draw(rng, 5, loc=1),
        bias,
        weight if used == "all" else jnp.where(mask != 0, weight, 0),
        1e-5,
        mask=jnp.asarray(mask),
        use_running_average=inference,
    )
    np.testing.assert_array_equal(y[hit], np.broadcast_to(bias, y.shape)[hit])


@pytest.mark.parametrize("order", [1, 2])
def test_a_loss_that_selects_has_clean_gradients(order, rng, make_mask):
    mask = make_mask("bool", (8, 5))
    x = jnp.where(mask, draw(rng, (8, 5)), jnp.nan)

    def loss(*args):
        y, _ = train(args[0], cold((5,)), *args[1:], mask=mask)
        return jnp.sum(jnp.where(mask, y, 0) ** 3)

    for _ in range(order):  # the second time, of the sum of the squared gradients
        gradient = jax.grad(loss, (0, 1, 2))
        loss = functools.partial(
            lambda g, *args: sum(jnp.sum(v**2) for v in g(*args)), gradient
        )
    dx, *rest = jax.jit(gradient)(x, jnp.full(5, 2.0), jnp.ones(5))
    assert all(np.all(np.isfinite(g)) and np.any(g != 0) for g in (dx, *rest))
    np.testing.assert_array_equal(dx[~mask], 0)


@pytest.mark.parametrize("kind", [None, "bool", "integer", "empty feature", "one"])
def test_unbiased(kind, rng, make_mask):
    x, weight = draw(rng, (2, 6, 5), loc=1), draw(rng, (2, 6, 5))
    if kind == "one":
        mask = jnp.zeros((2, 6, 1), bool).at[1, 2].set(True)
    else:
        mask = make_mask(kind, x.shape)
    stats = draw_stats(rng, 5)
    options = {"mask": mask, "unbiased": True, "epsilon": 1.0}
    check(x, stats, None, None, weight, 1e-5, **options)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30, 3.0])
def test_skip_nonfinite(value, counted, rng):
    """One bad feature keeps the statistics of the whole layer as they were."""
    stats = cold((5,), counted=counted)
    x = draw(rng, (8, 5)).at[2, 3].set(value)  # 1e30: the variance overflows
    y, moved = jax.jit(train)(x, stats)
    guarded, new = jax.jit(functools.partial(train, skip_nonfinite=True))(x, stats)
    np.testing.assert_array_equal(guarded, y)
    chex.assert_trees_all_equal(new, moved if value == 3.0 else stats)


# ---- statistics over many steps


@pytest.mark.parametrize("counted", [False, True])
def test_momentum_may_be_traced(counted, rng):
    x, stats = draw(rng, (8, 5)), cold((5,), counted=counted)
    traced = jax.jit(lambda m: train(x, stats, momentum=m)[1])
    chex.assert_trees_all_close(
        traced(0.75), train(x, stats, momentum=0.75)[1], atol=1e-6
    )


def test_cumulative_mean_in_a_scan(rng):
    batches = draw(rng, (7, 16, 5), loc=2, std=3)

    def step(stats, x):
        y, stats = train(x, stats, momentum=lambda count: count / (count + 1))
        return stats, y

    stats, ys = jax.jit(functools.partial(jax.lax.scan, step))(
        cold((5,), counted=True), batches
    )
    wide = np.asarray(batches, np.float64)
    assert stats.count == 7
    assert oracle.error(stats.mean, wide.mean((0, 1))) <= 1e-5
    assert oracle.error(stats.var, wide.var(1).mean(0)) <= 1e-5
    for x, y in zip(wide, ys, strict=True):
        expected, *_ = oracle.batch_norm(x, np.zeros(5), np.ones(5))
        assert oracle.error(y, expected) <= 1e-5


def test_an_empty_batch_is_no_update(rng):
    stats = jaxnorm.CountedBatchStats(*draw_stats(rng, 5), jnp.float32(3))
    _, new = train(draw(rng, (8, 5)), stats, mask=jnp.zeros((8, 1), bool))
    chex.assert_trees_all_equal(new, stats)


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize(
    "dtype, stats_dtype",
    [
        (jnp.float32, jnp.float32),
        (jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.float16),
        (jnp.bfloat16, jnp.bfloat16),
    ],
)
def test_one_trace_and_the_same_state(dtype, stats_dtype, counted, rng):
    chex.clear_trace_counter()  # it counts by name, over all rows of the table

    @jax.jit
    @chex.assert_max_traces(n=1)
    def step(x, stats):
        return train(x, stats, jnp.ones(5), momentum=0.9)

    stats = cold((5,), dtype=stats_dtype, counted=counted)
    for _ in range(3):
        _, new = step(draw(rng, (8, 5), dtype), stats)
        chex.assert_trees_all_equal_structs(new, stats)
        chex.assert_trees_all_equal_shapes_and_dtypes(new, stats)
        stats = new


def test_inference_returns_the_statistics_themselves(rng):
    stats = draw_stats(rng, 5)
    x = draw(rng, (8, 5))
    _, new = jaxnorm.batch_norm(x, stats, use_running_average=True)
    assert new is stats


# ---- transformations


def test_new_statistics_carry_no_gradient(rng):
    def total(x):
        _, new = train(x, cold((5,)), momentum=0.5)
        return jnp.sum(new.mean) + jnp.sum(new.var)

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(draw(rng, (8, 5))), 0)


def test_vmap_over_models(rng):
    x, stats = draw(rng, (3, 8, 5), loc=1), draw_stats(rng, (3, 5))
    y, new = jax.jit(jax.vmap(train))(x, stats)
    for model in range(3):
        expected = oracle.batch_norm(x[model], stats.mean[model], stats.var[model])
        actual = (y[model], new.mean[model], new.var[model])
        for a, b in zip(actual, expected, strict=True):
            assert oracle.error(a, b) <= 1e-5


@pytest.mark.parametrize("name", ["image", "two feature axes", "per example"])
def test_derivatives_of_first_and_second_order(name, rng, make_mask, x64):
    """Forward mode, and both ways to a Hessian, against differences of the oracle."""
    shape, feature_axes, mask, *affine = CASES[name]
    feature_shape = tuple(np.take(shape, np.sort(np.atleast_1d(feature_axes))))
    options = {"feature_axes": feature_axes, "mask": make_mask(mask, shape)}
    stats = draw_stats(rng, feature_shape, jnp.float64)
    point = [draw(rng, s, jnp.float64) for s in (shape, *affine)]
    tangent = [draw(rng, s, jnp.float64) for s in (shape, *affine)]
    weight = draw(rng, shape, jnp.float64)

    def forward(args):
        return train(args[0], stats, *args[1:], **options)[0]

    def gradient(args):
        return jax.grad(lambda args: jnp.sum(weight * forward(args) ** 2))(args)

    def difference(function, step=1e-5):
        above, below = (
            function([p + s * t for p, t in zip(point, tangent, strict=True)])
            for s in (step, -step)
        )
        return jax.tree.map(lambda a, b: (a - b) / (2 * step), above, below)

    def oracle_forward(args):
        return oracle.batch_norm(args[0], *stats, *args[1:], **options)[0]

    def oracle_gradient(args):
        dy = 2 * np.asarray(weight) * oracle_forward(args)
        return oracle.batch_norm_gradients(dy, args[0], *stats, *args[1:], **options)

    along = jax.jit(lambda f: jax.jvp(f, (point,), (tangent,))[1], static_argnums=0)

    @jax.jit
    def reverse_over_reverse(args):
        def inner(args):
            products = jax.tree.map(
                lambda g, t: jnp.sum(g * t), gradient(args), tangent
            )
            return sum(products)

        return jax.grad(inner)(args)

    assert oracle.error(along(forward), difference(oracle_forward)) <= 1e-7
    expected = difference(oracle_gradient)
    for actual in (along(gradient), reverse_over_reverse(point)):
        for a, b in zip(actual, expected, strict=True):
            assert oracle.error(a, b) <= 1e-7


keep = jax.checkpoint_policies.save_only_these_names(jaxnorm.MOMENTS_NAME)
drop = jax.checkpoint_policies.nothing_saveable


def remat_losses(rng):
    x, stats = draw(rng, (8, 4, 5)), cold((5,))

    def block(w):
        return jnp.tanh(train(jnp.sin(x * w), stats, jnp.full(5, 2.0))[0])

    return [
        jax.jit(jax.grad(lambda w, f=f: jnp.sum(f(w) ** 2)))
        for f in (
            block,
            jax.checkpoint(block, policy=drop),
            jax.checkpoint(block, policy=keep),
        )
    ]


def test_remat_gives_the_same_gradients(rng):
    w = draw(rng, (1, 1, 5), loc=1)
    plain, dropped, kept = (loss(w) for loss in remat_losses(rng))
    chex.assert_trees_all_close(dropped, plain, rtol=1e-5)
    chex.assert_trees_all_close(kept, plain, rtol=1e-5)


def test_remat_that_keeps_the_moments_repeats_no_reduction(rng, count_primitives):
    w = draw(rng, (1, 1, 5), loc=1)
    plain, dropped, kept = (
        count_primitives("reduce_sum", loss, w) for loss in remat_losses(rng)
    )
    assert kept == plain < dropped


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", [None, "examples"])
def test_the_backward_pass_keeps_only_x(dtype, kind, rng, make_mask):
    """Beside x (and the mask): vectors of the feature shape."""
    x, scale = draw(rng, (64, 32, 5), dtype), draw(rng, 5, dtype)
    mask = make_mask(kind, x.shape)

    @jax.jit
    def residuals(x, scale, bias):
        _, pullback = jax.vjp(
            lambda *args: train(args[0], cold((5,)), *args[1:], mask=mask)[0],
            x, scale, bias,
        )  # fmt: skip
        return jax.tree.leaves(pullback)

    kept = residuals(x, scale, scale)
    assert sum(r.nbytes for r in kept) <= x.nbytes + 64 * 4 + 20 * 5 * 4
