"""The scale of the input: what does not depend on it on paper does not in float32."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import place
from support.family import KINDS, SHAPE, TABLE, draw_arguments, draw_mask
from support.jitted import jitted
from support.tiers import matrix

import jaxnorm

# Powers of the input's scale with which others grow, for the output to be the same.
STATISTICS = {"mean": 1, "std": 1, "var": 2, "count": 0}
STATISTICS |= {f"{name}_rest": power for name, power in STATISTICS.items()}
# Of the output; 0 for the others.
OUTPUTS = {"mean_only_batch_norm": 1, "global_response_norm": 1}

# Those that take no square of x, or one of x over its maximum.
FINITE = (
    "dynamic_tanh",
    "dynamic_erf",
    "unit_norm",
    "mean_only_batch_norm",
    "weight_norm",
    "standardize_weight",
    "spectral_norm",
)


def scaled(value, factor):
    return place(np.asarray(value, np.float64) * factor)


def scaled_state(name, state, scale):
    if isinstance(state, tuple):
        fields = state._asdict() if state else {}
        return type(state)(
            **{k: scaled(v, scale ** STATISTICS[k]) for k, v in fields.items()}
        )
    assert name == "spectral_norm"  # a direction
    return state


@functools.cache
def compiled(name):
    call = TABLE[name].call

    @functools.partial(jax.jit, static_argnames="mask")
    def run(x, params, state, weight, mask):
        mask = draw_mask(TABLE[name]) if mask else None

        def loss(x, params):
            y = call(x, params, state, mask)[0]
            used = y if mask is None else jnp.where(mask, y, 0)
            return jnp.sum(used * weight), used

        return jax.grad(loss, (0, 1), has_aux=True)(x, params)

    return run


def outputs(name, scale, weight, mask=True):
    """y and the gradients in x and the parameters, divided by what they grow with."""
    x, params, state = draw_arguments(TABLE[name])
    powers = {key: TABLE[name].powers.get(key, 0) for key in params}
    grown = {key: scaled(params[key], scale**power) for key, power in powers.items()}
    (dx, dparams), y = compiled(name)(
        scaled(x, scale), grown, scaled_state(name, state, scale), weight, mask
    )
    unit = scale ** OUTPUTS.get(name, 0)
    dparams = {k: oracles.wide(v) * scale ** powers[k] for k, v in dparams.items()}
    return jax.tree.map(
        lambda value: oracles.wide(value) / unit, (y, oracles.wide(dx) * scale, dparams)
    )


EXPONENTS = (20, 53)


@pytest.mark.parametrize(
    ("name", "exponent"),
    matrix(
        itertools.product(TABLE, EXPONENTS),
        often=[("batch_norm", 20), *((name, 53) for name in KINDS[::2])],
    ),
)
def test_values_and_gradients_do_not_depend_on_the_scale(name, exponent, rng):
    if name == "batch_renorm":  # whose running mean is so far off that it is not used
        exponent = min(exponent, 48)
    weight = place(rng.normal(size=SHAPE))
    # Epsilon is negligible in both; powers of two round nothing.
    small = outputs(name, 2.0**12, weight)
    large = outputs(name, 2.0**exponent, weight)
    for a, b in zip(*map(jax.tree.leaves, (large, small)), strict=True):
        assert oracles.error(a, b) <= 1e-5


@pytest.mark.parametrize(
    ("name", "dtype"),
    matrix(
        itertools.product(TABLE, (np.float32, jnp.bfloat16)),
        often=[
            *((name, np.float32) for name in (*KINDS[1::2], "mean_only_batch_norm")),
            *((name, jnp.bfloat16) for name in ("batch_norm", "rms_norm")),
        ],
    ),
)
def test_squares_beyond_the_range_are_no_silent_zero(name, dtype, rng):
    """What cannot be computed is NaN, and noticed."""
    x, params, state = draw_arguments(TABLE[name])
    x = scaled(x, 2.0**70).astype(dtype)
    if name == "mean_only_batch_norm":
        params = {"bias": scaled(params["bias"], 2.0**70)}
    y = oracles.wide(jax.jit(TABLE[name].call)(x, params, state, None)[0])
    if name in FINITE:
        assert np.all(np.isfinite(y))
    elif name.endswith(("rms_norm", "seed_norm")):  # which say so
        assert np.all(y == 0)
    else:
        assert np.all(np.isnan(y))


@pytest.mark.parametrize(
    "name", [n for n in TABLE if TABLE[n].inference and n != "mean_only_batch_norm"]
)
def test_one_example_beyond_the_range_is_noticed(name, rng):
    """Though its mean is 0, and that of all is finite: moments are merged of parts."""
    x, params, state = draw_arguments(TABLE[name])
    x = np.array(x)
    x[0] = 2.0**66 * np.resize([1, -1], SHAPE[1])[:, None]
    _, new = jax.jit(TABLE[name].call)(x, params, state, None)
    spread = new.std if name == "batch_renorm" else new.var
    if name == "recurrent_batch_norm":
        spread = spread[1]  # the step that is called
    assert np.all(np.isnan(spread))


def test_a_batch_beyond_the_range_can_be_skipped(rng):
    stats = jaxnorm.init_batch_stats(3)
    x = scaled(rng.normal(size=(8, 3)), 1e25)
    norm = jitted(jaxnorm.batch_norm, use_running_average=False, skip_nonfinite=True)
    _, new = norm(x, stats)
    assert jax.tree.all(jax.tree.map(np.array_equal, new, stats))


@pytest.mark.parametrize("norm", [jaxnorm.layer_norm, jaxnorm.rms_norm])
def test_the_range_of_float64(norm, rng, x64):
    x, weight = rng.normal(size=(2, 4, 8))

    @jax.jit
    def run(x):
        y, pullback = jax.vjp(norm, x)
        return y, pullback(jax.device_put(weight))[0]

    scale = 2.0**498  # 8e149
    y, dx = run(jax.device_put(scale * x))
    expected, slope = run(jax.device_put(2.0**20 * x))
    assert oracles.error(y, expected) <= 1e-11
    assert oracles.error(dx * scale, slope * 2.0**20) <= 1e-11


# One of each rule that divides; the slow tier has all.
DIVIDING = (
    "batch_norm",
    "layer_norm",
    "adaptive_batch_norm",
    "evo_norm_b0",
    "global_response_norm",
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in DIVIDING else pytest.mark.slow)
        for name in TABLE
        if name != "dynamic_tanh"
    ],
)
def test_neither_variance_nor_epsilon(name):
    """Nothing is 0 / 0: where nothing differs, y is that of the mean."""
    entry = TABLE[name]
    x, params, state = draw_arguments(entry)
    mask = draw_mask(entry)
    zeros = jnp.zeros_like(x) if mask is None else jnp.where(mask, 0.0, jnp.nan)
    if name == "virtual_batch_norm":
        params |= {key: jnp.zeros_like(params[key]) for key in ("mean", "var")}
    if name != "spectral_norm":
        state = jax.tree.map(jnp.zeros_like, state)

    @jax.jit
    def run(x, params, state):
        def loss(x, params, **options):
            y, new = entry.call(x, params, state, mask, epsilon=0.0, **options)
            used = y if mask is None else jnp.where(mask, y, 0)
            return jnp.sum(jnp.sin(used + 1)), (y, new)

        modes = [{}, {"use_running_average": True}] if entry.inference else [{}]
        losses = [functools.partial(loss, **mode) for mode in modes]
        return [jax.grad(loss, (0, 1), has_aux=True)(x, params) for loss in losses]

    for gradients, results in run(zeros, params, state):
        for leaf in jax.tree.leaves((gradients, results)):
            assert np.all(np.isfinite(leaf))
        y = np.asarray(results[0])
        assert np.ptp(y[..., -1]) == 0  # of a feature
