"""Filter and global response norm, dynamic tanh and EvoNorm-S0 against the oracle."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import directional
from support.drawing import draw, place
from support.response_norms import NORMS, draw_parameters
from support.tiers import matrix

TOLERANCE = 3e-5
each = pytest.mark.parametrize("name", NORMS)
MASKED = [n for n in NORMS if NORMS[n].masked]


CASES = {  # shape, feature axes, shape of scale and bias, of the other parameters
    "image": ((3, 2, 3, 4), -1, (4,), (4,)),
    "channels first": ((3, 4, 5), 1, (4,), (4,)),
    "two feature axes": ((3, 2, 4, 2), (3, 1), (2, 2), (2, 2)),
    "without space": ((5, 4), -1, (4,), (4,)),
    "without parameters": ((3, 5, 4), -1, None, ()),
    "scalars": ((3, 5, 4), -1, (4,), ()),
    "per example": ((3, 5, 4), -1, (3, 1, 4), (3, 1, 1)),
    "per element": ((3, 5, 4), -1, (1, 5, 4), (3, 5, 1)),
}


def gradients(reference, dy, x, parameters):
    """Those of sum(Re(conj(dy) y)), numerically; of complex arguments as JAX's."""
    names = [key for key, value in parameters.items() if value is not None]
    arguments = (oracles.wide(x), *(oracles.wide(parameters[key]) for key in names))

    def loss(x, *values):
        y = reference(x, **{**parameters, **dict(zip(names, values, strict=True))})
        return np.sum(np.real(np.conj(oracles.wide(dy)) * y))

    def along(index, unit):
        derivative = np.zeros(arguments[index].shape)
        for index_of_one in np.ndindex(derivative.shape):
            direction = np.zeros(derivative.shape, arguments[index].dtype)
            direction[index_of_one] = unit
            directions = [None] * len(arguments)
            directions[index] = direction
            derivative[index_of_one] = directional(loss, arguments, directions)
        return derivative

    result = []
    for index, argument in enumerate(arguments):
        gradient = along(index, 1)
        if np.iscomplexobj(argument):
            gradient = gradient - 1j * along(index, 1j)
        result.append(gradient)
    return result[0], dict(zip(names, result[1:], strict=True))


@functools.cache
def jitted(function, options):
    """One program for all masks of a dtype and shape."""

    @jax.jit
    def step(x, parameters, dy, mask):
        def loss(x, parameters):
            y = function(x, **parameters, **mask, **dict(options))
            return jnp.sum(jnp.real(jnp.conj(dy) * y)), y

        return jax.grad(loss, (0, 1), has_aux=True)(x, parameters)

    return step


def check(norm, reference, x, parameters, dy, tolerance=TOLERANCE, **options):
    """Compare y and all gradients of sum(Re(conj(dy) y)) with the reference's."""
    mask = {"mask": options["mask"]} if "mask" in options else {}
    static = sorted((key, options[key]) for key in options if key != "mask")
    step = jitted(norm.function, tuple(static))
    (dx, dparameters), y = jax.device_get(step(x, parameters, dy, mask))
    options.pop("dtype", None)
    reference = functools.partial(reference, **options)
    assert oracles.error(y, reference(x, **parameters)) <= tolerance
    # Numerically; what is not finite is a constant.
    expected_dx, expected = gradients(reference, dy, x, parameters)
    assert oracles.error(dx, expected_dx) <= tolerance
    assert dx.dtype == x.dtype
    for key, value in expected.items():
        assert oracles.error(dparameters[key], value) <= tolerance, key
        assert dparameters[key].dtype == parameters[key].dtype
    return y


OFTEN = {
    "filter response": ("image", "without parameters", "per element"),
    "global response": ("channels first", "per example"),
    "dynamic tanh": ("two feature axes", "scalars"),
    "dynamic erf": ("image",),
    "evo s0": ("image", "without space", "per element"),
}


@pytest.mark.parametrize(
    "name, case",
    matrix(
        (
            (name, case)
            for name in NORMS
            for case in CASES
            if (name, case) != ("evo s0", "two feature axes")  # groups are of one axis
        ),
        often=[(name, case) for name in OFTEN for case in OFTEN[name]],
    ),
)
def test_oracle(name, case, rng):
    norm = NORMS[name]
    shape, feature_axes, *shapes = CASES[case]
    parameters = draw_parameters(rng, norm, *shapes)
    if name == "filter response" and case == "without parameters":
        parameters["threshold"] = None
    check(
        norm,
        norm.reference,
        draw(rng, shape, loc=0.5),
        parameters,
        draw(rng, shape),
        feature_axes=feature_axes,
        **norm.options,
    )


def test_learned_epsilon(rng):
    """Also where it is negative: it is the absolute value that counts."""
    norm, shape = NORMS["filter response"], (4, 3, 4)
    for case in ((4,), ()):
        parameters = draw_parameters(rng, norm, (4,), (4,))
        parameters["learned_epsilon"] = draw(rng, case, std=0.1)
        x = draw(rng, shape, std=0.3)
        check(norm, norm.reference, x, parameters, draw(rng, shape), epsilon=0.01)


KINDS = (
    "bool",
    "integer",
    "weights",
    "examples",
    "lower rank",
    "empty feature",
    "empty",
)
OFTEN_MASKED = [
    ("filter response", "bool"),
    ("filter response", "empty feature"),
    ("global response", "weights"),
    ("global response", "empty feature"),
    ("global response", "lower rank"),
    ("evo s0", "integer"),
    ("evo s0", "examples"),
    ("evo s0", "empty"),
]


@pytest.mark.parametrize(
    "name, kind", matrix(itertools.product(MASKED, KINDS), OFTEN_MASKED)
)
def test_mask(name, kind, rng, make_mask):
    norm, shape = NORMS[name], (5, 6, 4)
    check(
        norm,
        norm.reference,
        draw(rng, shape, loc=0.5),
        draw_parameters(rng, norm, (4,), (4,)),
        draw(rng, shape),
        mask=make_mask(kind, shape),
        feature_axes=-1,
        **norm.options,
    )


@pytest.mark.parametrize(
    "name, kind",
    matrix(
        itertools.product(MASKED, ("bool", "weights", "empty feature", "empty")),
        often=[
            ("filter response", "empty feature"),
            ("global response", "weights"),
            ("evo s0", "bool"),
            ("evo s0", "empty"),
        ],
    ),
)
def test_not_finite_under_the_mask(name, kind, rng, make_mask):
    norm, shape = NORMS[name], (5, 6, 4)
    mask = np.asarray(make_mask(kind, shape))
    bad = rng.choice(np.float32([np.nan, np.inf, -np.inf, 2.0]), shape)
    hit = (mask == 0) & ~np.isfinite(bad)
    x = place(np.where(hit, bad, draw(rng, shape)))
    parameters = draw_parameters(rng, norm, (4,), (4,))
    options = {"mask": jnp.asarray(mask), "feature_axes": -1, **norm.options}
    y = check(norm, norm.reference, x, parameters, draw(rng, shape), **options)
    floor = np.asarray(parameters.get("threshold", -np.inf))
    expected = np.broadcast_to(np.maximum(parameters["bias"], floor), shape)
    np.testing.assert_array_equal(y[hit], expected[hit])
    for leaf in jax.tree.leaves(
        second_derivative(name)(x, parameters, mask, mask != 0)
    ):
        assert np.isfinite(leaf).all()


@functools.cache
def second_derivative(name):
    """Of the sum of the squared gradients, of a loss of the valid elements."""
    norm = NORMS[name]

    def loss(x, parameters, mask, valid):
        y = norm.function(x, **parameters, mask=mask, **norm.options)
        return jnp.sum(jnp.where(valid, y, 0) ** 3)

    def squares(*arguments):
        return sum(jnp.sum(g**2) for g in jax.tree.leaves(jax.grad(loss)(*arguments)))

    return jax.jit(jax.grad(squares, (0, 1)))


@pytest.mark.parametrize("name", MASKED)
def test_padding_changes_nothing(name, rng):
    """Positions, and of global response norm features, which share a mean."""
    norm, shape = NORMS[name], (3, 5, 4)
    more = (3, 8, 6) if name == "global response" else (3, 8, 4)
    x, parameters = draw(rng, shape), draw_parameters(rng, norm, (4,), (4,))
    pad = [(0, b - a) for a, b in zip(shape, more, strict=True)]
    padded = place(np.pad(x, pad, constant_values=np.nan))
    mask = jnp.asarray(np.pad(np.ones(shape, bool), pad))
    wide = {k: place(np.pad(p, (0, more[-1] - 4))) for k, p in parameters.items()}
    function = jax.jit(functools.partial(norm.function, **norm.options))
    y = np.asarray(function(padded, **wide, mask=mask))
    assert oracles.error(y[:, :5, :4], function(x, **parameters)) <= 1e-5


@pytest.mark.parametrize("ratio", [1e2, 1e4])
def test_evo_norm_with_a_large_mean(ratio, rng):
    norm, shape = NORMS["evo s0"], (4, 16, 4)
    x = draw(rng, shape, loc=ratio)
    parameters = draw_parameters(rng, norm, (4,), (4,))
    dy = draw(rng, shape, std=1 / ratio)  # so that the gradients are near 1
    check(norm, norm.reference, x, parameters, dy, num_groups=2)


DTYPES = [
    ("bfloat16", "bfloat16", None, "bfloat16", 1e-2),
    ("bfloat16", "float32", None, "float32", 1e-2),
    ("bfloat16", "float32", "bfloat16", "bfloat16", 1e-2),
    ("float16", "float16", None, "float16", 2e-3),
    ("float32", "bfloat16", None, "float32", 1e-2),
    ("float32", "float32", "float64", "float64", TOLERANCE),
    ("float64", "float64", None, "float64", 1e-8),
    ("float64", "float32", None, "float64", 1e-6),
]
OFTEN_DTYPES = {
    "filter response": (2, 3, 6),
    "global response": (1, 7),
    "dynamic tanh": (0, 4),
    "dynamic erf": (3,),
    "evo s0": (1, 5),
}


@pytest.mark.parametrize(
    "name, dtype, parameters, option, result, tolerance",
    matrix(
        ((name, *row) for name in NORMS for row in DTYPES),
        often=[(n, *DTYPES[i]) for n in NORMS for i in OFTEN_DTYPES[n]],
    ),
)
def test_dtypes(name, dtype, parameters, option, result, tolerance, rng, x64):
    norm, shape = NORMS[name], (4, 5, 4)
    drawn = draw_parameters(rng, norm, (4,), (4,), jnp.dtype(parameters))
    y = check(
        norm,
        norm.reference,
        draw(rng, shape, jnp.dtype(dtype)),
        drawn,
        draw(rng, shape, jnp.dtype(result)),
        tolerance,
        dtype=option and jnp.dtype(option),
        **norm.options,
    )
    assert y.dtype == result


@pytest.mark.parametrize(
    "name, affine",
    matrix(
        itertools.product(
            ("filter response", "global response", "dynamic tanh"),
            (jnp.float32, jnp.complex64),
        ),
        often=[
            ("filter response", jnp.complex64),
            ("global response", jnp.float32),
            ("dynamic tanh", jnp.complex64),
        ],
    ),
)
def test_complex(name, affine, rng, make_mask):
    norm, shape = NORMS[name], (4, 5, 4)
    parameters = draw_parameters(rng, norm, (4,), (4,))
    for key in ("scale", "bias"):
        parameters[key] = draw(rng, (4,), affine)
    if name == "filter response":
        parameters["threshold"] = None
    x, dy = (draw(rng, shape, jnp.complex64) for _ in range(2))
    y = check(norm, norm.reference, x, parameters, dy, **norm.options)
    assert y.dtype == jnp.complex64


def test_learned_epsilon_beyond_the_range_is_noticed(rng):
    """With it the mean square exceeds the range, and y would be the bias."""
    norm = NORMS["filter response"]
    x, shape = jnp.full((2, 3, 4), 1e19), (4,)
    parameters = draw_parameters(rng, norm, shape, shape)
    epsilon = jnp.full(shape, 3e38)
    y = jax.jit(norm.function)(x, **parameters, learned_epsilon=epsilon)
    assert np.all(np.isnan(y))
