"""What filter and global response norm, curves and EvoNorm S0 have in common."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.drawing import draw, place
from support.response_norms import NORMS, draw_parameters
from support.responses_beside_oracle import TOLERANCE, check
from support.tiers import matrix

MASKED = [n for n in NORMS if NORMS[n].masked]


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
    ("filter_response_norm", "bool"),
    ("filter_response_norm", "empty feature"),
    ("global_response_norm", "weights"),
    ("global_response_norm", "empty feature"),
    ("global_response_norm", "lower rank"),
    ("evo_norm_s0", "integer"),
    ("evo_norm_s0", "examples"),
    ("evo_norm_s0", "empty"),
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
            ("filter_response_norm", "empty feature"),
            ("global_response_norm", "weights"),
            ("evo_norm_s0", "bool"),
            ("evo_norm_s0", "empty"),
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
    options = {"mask": jax.device_put(mask), "feature_axes": -1, **norm.options}
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
    more = (3, 8, 6) if name == "global_response_norm" else (3, 8, 4)
    x, parameters = draw(rng, shape), draw_parameters(rng, norm, (4,), (4,))
    pad = [(0, b - a) for a, b in zip(shape, more, strict=True)]
    padded = place(np.pad(x, pad, constant_values=np.nan))
    mask = jax.device_put(np.pad(np.ones(shape, bool), pad))
    wide = {k: place(np.pad(p, (0, more[-1] - 4))) for k, p in parameters.items()}
    function = jax.jit(functools.partial(norm.function, **norm.options))
    y = np.asarray(function(padded, **wide, mask=mask))
    assert oracles.error(y[:, :5, :4], function(x, **parameters)) <= 1e-5


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
    "filter_response_norm": (2, 3, 6),
    "global_response_norm": (1, 7),
    "dynamic_tanh": (0, 4),
    "dynamic_erf": (3,),
    "evo_norm_s0": (1, 5),
}


@pytest.mark.parametrize(
    "name, dtype, parameters, option, result, tolerance",
    matrix(
        ((name, *row) for name in NORMS for row in DTYPES),
        often=[(n, *DTYPES[i]) for n in NORMS for i in OFTEN_DTYPES.get(n, ())],
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
            ("filter_response_norm", "global_response_norm", "dynamic_tanh"),
            (jnp.float32, jnp.complex64),
        ),
        often=[
            ("filter_response_norm", jnp.complex64),
            ("global_response_norm", jnp.float32),
            ("dynamic_tanh", jnp.complex64),
        ],
    ),
)
def test_complex(name, affine, rng, make_mask):
    norm, shape = NORMS[name], (4, 5, 4)
    parameters = draw_parameters(rng, norm, (4,), (4,))
    for key in ("scale", "bias"):
        parameters[key] = draw(rng, (4,), affine)
    if name == "filter_response_norm":
        parameters["threshold"] = None
    x, dy = (draw(rng, shape, jnp.complex64) for _ in range(2))
    y = check(norm, norm.reference, x, parameters, dy, **norm.options)
    assert y.dtype == jnp.complex64
