"""SeeDNorm: heads and masks against the oracle, over devices, and what is kept."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from oracles import seed_norm
from support.counting import assert_moments_are_kept, saved_for_backward
from support.directions import check_gradients
from support.drawing import draw, place
from support.family import close
from support.jitted import jitted
from support.modes import mesh_of
from support.over_features import AXIS, MODES, check_over_features, differentiate

import jaxnorm
import jaxnorm.linen

EPSILON = 0.03  # large enough to see where it is added
CASES = {  # shape, kind of mask, sizes of alpha and beta, of scale, options
    "plain": ((4, 3, 6), None, (6,), (6,), {}),
    "no scale": ((4, 6), "bool", (6,), None, {}),
    "scalars, offset": ((4, 6), "weights", (), (6,), {"scale_offset": 1.0}),
    "heads": ((4, 3, 6), "bool", (6,), (6,), {"num_heads": 3}),
    "heads of channels": (
        (3, 6, 4),
        "weights",
        (6,),
        (6,),
        {"num_heads": 2, "feature_axes": 1, "reduction_axes": (1, 2)},
    ),
    "two feature axes": (
        (2, 3, 4, 6),
        "examples",
        (4, 6),
        (4, 6),
        {"feature_axes": (2, 3), "reduction_axes": (2, 3)},
    ),
    "adaptive": ((3, 4, 6), "integer", (3, 1, 6), (3, 1, 6), {}),
    "nothing but masked": ((3, 6), "empty", (6,), (6,), {"num_heads": 3}),
}
NAMES = "x", "alpha", "beta", "scale"


def draw_problem(rng, shape, own, scale, dtype=np.float32):
    """x, alpha, beta and scale, with which the tanh is neither 0 nor 1."""
    return (
        draw(rng, shape, dtype, loc=0.3, std=2),
        draw(rng, own, dtype, loc=1),
        draw(rng, own, dtype, std=0.2),
        draw(rng, scale, dtype, loc=1),
    )


@pytest.mark.parametrize("case", CASES)
def test_oracle(case, rng, make_mask):
    shape, kind, own, scale, options = CASES[case]
    options = options | {"epsilon": EPSILON}
    arguments, mask = draw_problem(rng, shape, own, scale), make_mask(kind, shape)
    if mask is not None:
        hidden = np.broadcast_to(mask, shape) == 0
        bad = rng.choice([np.inf, np.nan, 1.0], shape)
        x = place(np.where(hidden, bad, arguments[0]))
        arguments = (x, *arguments[1:])
    weight = draw(rng, shape)

    @jax.jit
    def step(arguments):
        def loss(arguments):
            y = jaxnorm.seed_norm(*arguments, mask=mask, **options)
            return jnp.sum(y * weight), y

        return jax.grad(loss, has_aux=True)(arguments)

    gradients, y = jax.device_get(step(arguments))
    reference = functools.partial(seed_norm, mask=mask, **options)
    assert oracles.error(y, reference(*arguments)) <= 1e-5
    check_gradients(rng, gradients, weight, reference, arguments)


def test_it_starts_as_rms_norm(rng):
    x, alpha, beta, scale = draw_problem(rng, (4, 6), 6, 6)
    y = jitted(jaxnorm.seed_norm)(x, alpha, 0 * beta, scale)
    expected = jitted(jaxnorm.rms_norm)(x, scale)
    np.testing.assert_allclose(y, expected, rtol=4e-7)


def test_the_module_hands_its_heads_on(rng):
    x, *parameters = draw_problem(rng, (4, 6), 6, 6)
    norm = jaxnorm.linen.SeedNorm(num_heads=2)
    variables = {"params": dict(zip(NAMES[1:], parameters, strict=True))}
    expected = jitted(jaxnorm.seed_norm, num_heads=2)(x, *parameters)
    np.testing.assert_array_equal(jax.jit(norm.apply)(variables, x), expected)


@pytest.mark.parametrize("masked", [False, True])
def test_second_derivatives(masked, rng, x64):
    """In all arguments, each with each, as those of the formula."""
    shape = (2, 4)
    arguments = draw_problem(rng, shape, 4, 4, np.float64)
    mask = np.indices(shape).sum(0) % 4 != 0 if masked else np.ones(shape, bool)
    weight, one = draw(rng, shape, np.float64), mask.astype(np.float64)

    def formula(x, alpha, beta, scale):
        count = np.sum(one, -1, keepdims=True)
        power = jnp.sum(one * x * x, -1, keepdims=True) / count
        products = (one * x * beta.reshape(1, 4)).reshape(2, 2, 2)
        sums = jnp.sum(products, -1, keepdims=True)
        gate = jnp.broadcast_to(jnp.tanh(sums), (2, 2, 2)).reshape(shape)
        factor = scale.reshape(1, 4) + alpha.reshape(1, 4) * gate
        return x / jnp.sqrt(power + EPSILON) * factor

    norm = functools.partial(
        jaxnorm.seed_norm,
        mask=jax.device_put(mask) if masked else None,
        num_heads=2,
        epsilon=EPSILON,
    )

    @jax.jit
    def hessians(arguments):
        return [
            jax.hessian(lambda a, f=f: jnp.sum(weight * jnp.sin(f(*a))))(arguments)
            for f in (norm, formula)
        ]

    for a, b in zip(*map(jax.tree.leaves, hessians(arguments)), strict=True):
        assert oracles.error(a, b) <= 1e-12


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_saved_are_x_and_a_number_a_head(dtype, masked, heads):
    shape = (16, 64, 32)
    mask = jax.device_put(np.arange(16).reshape(-1, 1, 1) < 10) if masked else None
    norm = functools.partial(jaxnorm.seed_norm, mask=mask, num_heads=heads, dtype=dtype)
    parameters = [jax.ShapeDtypeStruct(shape[-1:], jnp.float32)] * 3
    arguments = [jax.ShapeDtypeStruct(shape, dtype), *parameters]
    large, rest = saved_for_backward(shape, norm, *arguments)
    assert large == [dtype]
    # With a mask the counts of the rows too, and the mask itself.
    assert rest <= (1 + masked + heads) * 16 * 64 + 4 * 32 + 16 + 8


def test_remat_that_keeps_the_moments_repeats_no_reduction(rng):
    x, *parameters = draw_problem(rng, (4, 6), 6, 6)

    def block(x):
        return jaxnorm.seed_norm(jnp.sin(x), *parameters, num_heads=2)

    assert_moments_are_kept("reduce_sum", block, x)


@pytest.mark.parametrize("mode", MODES)
def test_features_over_devices(mode, rng):
    """The mean and the sum in one collective forward, and one backward."""
    arguments = draw_problem(rng, (3, 16), 16, 16)
    whole = jitted(jaxnorm.seed_norm)
    norm = functools.partial(jaxnorm.seed_norm, axis_name=AXIS)
    check_over_features(mode, whole, norm, arguments, 2)


@pytest.mark.parametrize("axis_type", [AxisType.Explicit, AxisType.Auto])
def test_heads_of_sharded_features_under_jit(axis_type, rng):
    """Of four features, on two devices each."""
    arguments = draw_problem(rng, (2, 16), 16, 16)
    step = jax.jit(differentiate(functools.partial(jaxnorm.seed_norm, num_heads=4)))
    expected = jax.device_get(step(*arguments))
    mesh = mesh_of(axis_type, names=(AXIS,))
    x, *parameters = arguments
    with jax.set_mesh(mesh):
        x = jax.device_put(x, NamedSharding(mesh, P(None, AXIS)))
        parameters = jax.device_put(parameters, NamedSharding(mesh, P(AXIS)))
        actual = jax.device_get(step(x, *parameters))
    close(actual, expected)
