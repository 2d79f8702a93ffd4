"""Gated RMS norm: both orders against the oracle, over devices, and what is kept."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from oracles import gated_rms_norm
from support.counting import assert_moments_are_kept, saved_for_backward
from support.directions import check_gradients
from support.drawing import draw, place
from support.jitted import jitted
from support.modes import mesh_of
from support.over_features import AXIS, DEVICES, MODES, check_over_features
from support.tiers import diagonal, matrix

import jaxnorm

EPSILON = 0.03  # large enough to see where it is added
orders = pytest.mark.parametrize("gate_first", [False, True])
CASES = {  # shape, kind of mask, sizes of scale, options
    "plain": ((4, 3, 6), None, (6,), {}),
    "sigmoid": ((4, 6), "bool", (6,), {"activation": "sigmoid"}),
    "no scale": ((4, 6), "weights", None, {}),
    "offset": ((4, 6), None, (6,), {"scale_offset": 1.0}),
    "groups": ((4, 3, 6), "bool", (6,), {"num_groups": 2}),
    "size of groups": ((4, 3, 6), None, (6,), {"group_size": 2}),
    "groups of channels": (
        (3, 6, 4),
        "weights",
        (6,),
        {"num_groups": 2, "feature_axes": 1, "reduction_axes": (1, 2)},
    ),
    "heads": ((2, 3, 4, 6), "examples", (4, 6), {"feature_axes": (2, 3)}),
    "adaptive, space too": ((3, 4, 6), "bool", (3, 1, 6), {"reduction_axes": (1, 2)}),
    "nothing but masked": ((3, 6), "empty", (6,), {"num_groups": 3}),
}


@functools.cache
def differentiated(options):
    """y and gradients of the sum of weight y; one program for each dtype and shape."""

    def step(arguments, mask, weight):
        def loss(arguments):
            norm = functools.partial(jaxnorm.gated_rms_norm, **dict(options))
            y = norm(*arguments, mask=mask)
            return jnp.sum(y.astype(weight.dtype) * weight), y

        return jax.grad(loss, has_aux=True)(arguments)

    return jax.jit(step)


def step(arguments, mask, weight, **options):
    run = differentiated(tuple(options.items()))
    return jax.device_get(run(arguments, mask, weight))


def draw_problem(rng, case):
    """x, gate and scale, of which nothing is finite in places under the mask."""
    shape, *_, scale, _ = CASES[case]
    return draw(rng, shape, loc=0.5, std=2), draw(rng, shape), draw(rng, scale, loc=1)


@pytest.mark.parametrize(
    "case, gate_first",
    matrix(
        itertools.product(CASES, (False, True)),
        often=[*diagonal(CASES, (False, True)), ("plain", True), ("groups", True)],
    ),
)
def test_oracle(case, gate_first, rng, make_mask):
    shape, kind, _, options = CASES[case]
    options = options | {"epsilon": EPSILON, "gate_first": gate_first}
    arguments, mask = draw_problem(rng, case), make_mask(kind, shape)
    if mask is not None:  # of some elements x, of some the gate, and of some both
        hidden = np.broadcast_to(mask, shape) == 0
        bad = [np.inf, np.nan, 1e30, 1.0]
        for i in range(2):
            hit = hidden & (rng.uniform(size=shape) < 0.5)
            worse = place(np.where(hit, rng.choice(bad, shape), arguments[i]))
            arguments = (*arguments[:i], worse, *arguments[i + 1 :])
    weight = draw(rng, shape)
    gradients, y = step(arguments, mask, weight, **options)
    reference = functools.partial(gated_rms_norm, mask=mask, **options)
    # What is beyond squares comes out as 0 under the mask, as what is not finite.
    known = [np.where(np.abs(a) > 1e20, np.nan, a) for a in arguments[:2]]
    known = (*known, arguments[2])
    assert oracles.error(y, reference(*known)) <= 1e-5
    check_gradients(rng, gradients, weight, reference, known)


@orders
def test_the_formula_of_state_space_models(gate_first, rng):
    """As it is written there, of heads, with norm_before_gate False and True."""
    x, z, w = (oracles.wide(draw(rng, shape)) for shape in ((5, 8), (5, 8), 8))

    def rms(value):
        heads = value.reshape(5, 2, 4)
        power = np.mean(heads**2, -1, keepdims=True)
        return (heads / np.sqrt(power + EPSILON)).reshape(5, 8)

    silu = z / (1 + np.exp(-z))
    expected = rms(x * silu) * w if gate_first else rms(x) * w * silu
    options = {"group_size": 4, "epsilon": EPSILON, "gate_first": gate_first}
    y = jitted(jaxnorm.gated_rms_norm, **options)(*map(place, (x, z, w)))
    assert oracles.error(y, expected) <= 2e-6


@pytest.mark.parametrize(
    "masked, gate_first",
    matrix(
        itertools.product((False, True), (False, True)),
        often=[(True, True)],
    ),
)
def test_second_derivatives(masked, gate_first, rng, x64):
    """In x, gate and scale, each with each, as those of the formula."""
    shape = (2, 4)
    arguments = [draw(rng, s, np.float64) for s in (shape, shape, 4)]
    weight, mask = draw(rng, shape, np.float64), np.indices(shape).sum(0) % 4 != 0
    weights = (mask if masked else np.ones(shape)).reshape(2, 2, 2).astype(float)

    def formula(x, gate, scale):
        gated = jax.nn.silu(gate)
        u = (x * gated if gate_first else x).reshape(2, 2, 2)
        power = jnp.sum(weights * u * u, -1, keepdims=True)
        power = power / np.sum(weights, -1, keepdims=True)
        y = (u / jnp.sqrt(power + EPSILON)).reshape(shape) * scale.reshape(1, 4)
        return y if gate_first else y * gated

    norm = functools.partial(
        jaxnorm.gated_rms_norm,
        mask=jax.device_put(mask) if masked else None,
        num_groups=2,
        gate_first=gate_first,
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


@orders
def test_gradients_in_bfloat16_are_rounded_once(gate_first, rng):
    options = {"num_groups": 2, "gate_first": gate_first, "dtype": jnp.float32}
    shape = (4, 3, 8)
    arguments = tuple(draw(rng, s, jnp.bfloat16) for s in (shape, shape, 8))
    weight = draw(rng, shape)
    narrow, y = step(arguments, None, weight, **options)
    exact, wide = step(
        tuple(a.astype(jnp.float32) for a in arguments), None, weight, **options
    )
    assert oracles.error(y, wide) <= 1e-6
    for actual, expected in zip(narrow, exact, strict=True):
        assert actual.dtype == jnp.bfloat16
        half_a_unit = 0.501 * 2**-7 * np.abs(expected) + 1e-5
        assert np.all(np.abs(oracles.wide(actual) - expected) <= half_a_unit)


@pytest.mark.parametrize(
    "dtype, masked, groups, gate_first",
    matrix(
        itertools.product(
            (jnp.float32, jnp.bfloat16), (False, True), (None, 2), (False, True)
        ),
        often=[
            (jnp.float32, False, None, False),
            (jnp.bfloat16, True, 2, False),
            (jnp.bfloat16, False, None, True),
            (jnp.float32, True, 2, True),
        ],
    ),
)
def test_saved_are_x_the_gate_and_a_number_a_group(dtype, masked, groups, gate_first):
    shape = (16, 64, 32)
    mask = jax.device_put(np.arange(16).reshape(-1, 1, 1) < 10) if masked else None
    norm = functools.partial(
        jaxnorm.gated_rms_norm,
        mask=mask,
        num_groups=groups,
        gate_first=gate_first,
        dtype=dtype,
    )
    arguments = [jax.ShapeDtypeStruct(shape, dtype)] * 2
    arguments.append(jax.ShapeDtypeStruct(shape[-1:], jnp.float32))
    large, rest = saved_for_backward(shape, norm, *arguments)
    assert large == [dtype, dtype]
    # With a mask the counts of the rows too, and the mask itself.
    assert rest <= (1 + masked) * 16 * 64 * (groups or 1) + 2 * 32 + 16 + 8


@orders
def test_remat_that_keeps_the_moments_repeats_no_reduction(gate_first, rng):
    x, gate, scale = (draw(rng, shape) for shape in ((4, 6), (4, 6), 6))

    def block(x):
        options = {"gate_first": gate_first, "num_groups": 2}
        return jaxnorm.gated_rms_norm(jnp.sin(x), gate, scale, **options)

    assert_moments_are_kept("reduce_sum", block, x)


@pytest.mark.parametrize(
    "mode, heads, gate_first",
    matrix(
        itertools.product(MODES, (False, True), (False, True)),
        often=[
            ("pmap", False, False),
            ("check_vma", True, False),
            ("no check_vma", False, True),
        ],
    ),
)
def test_features_over_devices(mode, heads, gate_first, rng):
    """One collective forward and one backward; none where heads lie on each."""
    shapes = (3, 16), (3, 16), (16,)
    arguments = [draw(rng, shape) for shape in shapes]
    options = {"epsilon": EPSILON, "gate_first": gate_first}
    whole = jitted(jaxnorm.gated_rms_norm, **options, group_size=2 if heads else None)
    own = {"group_size": 2} if heads else {"axis_name": AXIS}
    norm = functools.partial(jaxnorm.gated_rms_norm, **options, **own)
    check_over_features(mode, whole, norm, arguments, 0 if heads else 2)


@pytest.mark.parametrize("varying", ["x", "gate"])
def test_gate_or_x_may_be_the_same_on_all_devices(varying, rng):
    """What is averaged, gated first, varies as both do."""
    x, gate, scale = draw(rng, (3, 16)), draw(rng, (3, 16)), draw(rng, 2)
    both = {"x": x, "gate": gate}
    same = "gate" if varying == "x" else "x"
    both[same] = place(np.tile(np.asarray(both[same])[:, :2], DEVICES))
    options = {"gate_first": True, "epsilon": EPSILON}
    expected = gated_rms_norm(both["x"], both["gate"], np.tile(scale, 8), **options)
    both[same] = both[same][:, :2]
    specs = {name: P(None, AXIS) if name == varying else P() for name in both}
    mapped = jax.shard_map(
        lambda both: jaxnorm.gated_rms_norm(
            **both, scale=scale, axis_name=AXIS, **options
        ),
        mesh=mesh_of(AxisType.Auto, names=(AXIS,)),
        in_specs=(specs,),
        out_specs=P(None, AXIS),
    )
    assert oracles.error(jax.jit(mapped)(both), expected) <= 1e-5
