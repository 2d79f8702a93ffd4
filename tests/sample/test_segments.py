"""Normalizers of segments: values, derivatives, what is kept, and bad input."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.counting import assert_moments_are_kept
from support.drawing import draw, place
from support.jitted import jitted
from support.refusals import refused
from support.segments import EPSILON, NORMS, every_norm, parameters

import jaxnorm


def test_the_formulas_of_graphs(rng):
    """As they are written for each graph, of one after the other."""
    x, ids = oracles.wide(draw(rng, (7, 3))), np.array([0, 0, 1, 1, 1, 3, 3])
    share, eps = oracles.wide(draw(rng, 3)), 1e-5
    expected = {name: np.zeros_like(x) for name in (*NORMS, "instance")}
    for graph in np.unique(ids):
        node = x[ids == graph]
        left = node - share * node.mean(0)
        whole = node - node.mean()
        alone = node - node.mean(0)
        for name, value, power in (
            ("graph_norm", left, (left**2).mean(0)),
            ("instance", alone, (alone**2).mean(0)),
            ("segment_layer_norm", whole, (whole**2).mean()),
            ("segment_rms_norm", node, (node**2).mean()),
        ):
            expected[name][ids == graph] = value / np.sqrt(power + eps)
    given = {"segment_ids": jax.device_put(ids), "num_segments": 4, "epsilon": eps}

    @jax.jit
    def all_of_them(x, share):
        y = {name: getattr(jaxnorm, name)(x, **given) for name in NORMS[1:]}
        y["graph_norm"] = jaxnorm.graph_norm(x, share, **given)
        return y | {"instance": jaxnorm.graph_norm(x, **given)}

    y = all_of_them(place(x), place(share))
    for name, value in expected.items():
        assert oracles.error(y[name], value) <= 1e-5, name


@every_norm
def test_large_offsets(norm, rng):
    """Each segment with a size and an offset of its own."""
    ids = rng.integers(0, 4, 64)
    function = jitted(getattr(jaxnorm, norm), num_segments=4)
    for ratio in (0, 1, 1e2, 1e4):
        std = np.geomspace(0.1, 10, 4)[ids, None]
        mean = ratio * std * np.resize([1, -1], 4)[ids, None]
        x = draw(rng, (64, 3), loc=mean, std=std)
        y = function(x, segment_ids=jax.device_put(ids))
        reference = getattr(oracles, norm)
        expected = reference(x, segment_ids=ids, num_segments=4)
        assert np.max(np.abs(oracles.wide(y) - expected)) <= 1e-5, ratio


def test_long_segments(rng):
    """Sums lose no digits, of x and of its cotangents."""
    half = 2**16
    x, weight = draw(rng, (2 * half, 1), loc=1e4), 1 + draw(rng, (2 * half, 1))
    ids = jax.device_put(np.repeat([0, 1], half))

    def of_graphs(x):
        return jaxnorm.graph_norm(x, segment_ids=ids, num_segments=2)

    def of_instances(x):
        return jaxnorm.instance_norm(x.reshape(2, half, 1)).reshape(x.shape)

    @jax.jit
    def both(x, weight):
        results = [jax.vjp(norm, x) for norm in (of_graphs, of_instances)]
        return [(y, backward(weight)) for y, backward in results]

    actual, expected = both(x, weight)
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        assert np.max(np.abs(a - b)) <= 1e-5


def dense(norm, x, ids, number, mean_scale=1.0, scale=1.0, bias=0.0):
    """The formula by a matrix of members, as autodiff sees it."""
    member = (ids[:, None] == np.arange(number)).astype(x.dtype)
    share = member / np.maximum(member.sum(0), 1)
    axes = () if norm == "graph_norm" else (1,)

    def mean(value):
        return member @ jnp.mean(share.T @ value, axes, keepdims=True)

    if norm != "segment_rms_norm":
        x = x - jnp.reshape(mean_scale, (1, -1)) * mean(x)
    y = x / jnp.sqrt(mean(x * x) + EPSILON)
    return y * jnp.reshape(scale, (1, -1)) + jnp.reshape(bias, (1, -1))


# Derivatives are JAX's own of one program, which graph norm has all of.
OFTEN = ("graph_norm", *(pytest.param(n, marks=pytest.mark.slow) for n in NORMS[1:]))
graph_norm_often = pytest.mark.parametrize("norm", OFTEN)


@graph_norm_often
def test_derivatives_of_higher_order(norm, rng, x64):
    """Of the gradient in x and all parameters, twice along a line."""
    ids, number = np.array([0, 2, 0, 0, 2]), 4
    x, weight = draw(rng, (5, 2), np.float64), draw(rng, (5, 2), np.float64)
    arguments = (x, parameters(norm, rng, 2, np.float64))
    line = jax.tree.map(lambda leaf: draw(rng, leaf.shape, np.float64), arguments)
    ours = functools.partial(
        getattr(jaxnorm, norm),
        segment_ids=jax.device_put(ids),
        num_segments=number,
        epsilon=EPSILON,
    )
    plain = functools.partial(dense, norm, ids=ids, number=number)

    @jax.jit
    def derivatives(arguments):
        results = []
        for function in ours, plain:

            def loss(arguments, function=function):
                x, params = arguments
                return jnp.sum(weight * jnp.sin(function(x, **params)))

            def along(f):
                return lambda at: jax.jvp(f, (at,), (line,))

            results.append(along(along(jax.grad(loss)))(arguments))
        return results

    for actual, expected in zip(
        *map(jax.tree.leaves, derivatives(arguments)), strict=True
    ):
        assert oracles.error(actual, expected) <= 1e-10


@graph_norm_often
def test_rows_with_ids_of_their_own(norm, rng):
    """Mapped over, or told apart by their ids."""
    x, params = draw(rng, (3, 6, 2)), parameters(norm, rng, 2)
    ids = np.array([[0, 0, 1, 1, 1, -1], [0, 1, 2, 2, 2, 2], [0, 0, 0, 0, 3, -1]])
    function = getattr(jaxnorm, norm)

    @jax.jit
    def both(x, ids, params):
        def of_row(x, ids):
            return function(x, **params, segment_ids=ids, num_segments=3)

        apart = jnp.where((ids >= 0) & (ids < 3), ids + 3 * jnp.arange(3)[:, None], -1)
        whole = function(x, **params, segment_ids=apart, num_segments=9)
        return jax.vmap(of_row)(x, ids), whole

    mapped, whole = both(x, jax.device_put(ids), params)
    for i in range(3):
        reference = getattr(oracles, norm)
        row = reference(x[i], **params, segment_ids=ids[i], num_segments=3)
        assert oracles.error(mapped[i], row) <= 1e-5
        assert oracles.error(whole[i], row) <= 1e-5


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@every_norm
def test_saved_are_x_the_ids_and_numbers_a_segment(norm, dtype):
    def backward(x, params, ids):
        options = {"segment_ids": ids, "num_segments": 8, "dtype": dtype}
        return jax.vjp(
            lambda x, params: getattr(jaxnorm, norm)(x, **params, **options), x, params
        )[1]

    params = parameters(norm, np.random.default_rng(0), 32)
    x = jax.ShapeDtypeStruct((512, 32), dtype)
    ids = jax.ShapeDtypeStruct((512,), jnp.int32)
    saved = jax.tree.leaves(jax.eval_shape(backward, x, params, ids))
    assert [leaf.dtype for leaf in saved if leaf.shape == x.shape] == [dtype]
    rest = [leaf for leaf in saved if leaf.shape != x.shape]
    positions = [leaf for leaf in rest if leaf.size == 512]
    assert {leaf.dtype.name for leaf in positions} <= {"int32", "bool"}
    assert len(positions) == 2  # ids, and which of them are in range
    assert sum(leaf.size for leaf in rest) - 1024 <= 4 * 8 * 32 + 3 * 32


@every_norm
def test_remat_that_keeps_the_moments_repeats_no_sum(norm, rng):
    x, ids = draw(rng, (6, 3)), jax.device_put(rng.integers(0, 2, 6))

    def block(x):
        function = getattr(jaxnorm, norm)
        return function(jnp.sin(x), segment_ids=ids, num_segments=2)

    assert_moments_are_kept("scatter-add", block, x)


IDS = jnp.zeros(4, jnp.int32)
BAD = {
    "floating ids": ({"segment_ids": jnp.zeros(4)}, ("segment_ids", "float32")),
    "boolean ids": ({"segment_ids": IDS > 0}, ("segment_ids", "bool")),
    "ids that do not fit": ({"segment_ids": IDS[:3]}, ("segment_ids", "(3,)")),
    "an id alone": ({"segment_ids": IDS[0]}, ("segment_ids", "()")),
    "ids of features": (
        {"segment_ids": jnp.zeros((4, 3), jnp.int32)},
        ("feature_axes", "x[..., None]"),
    ),
    "no number": ({"num_segments": None}, ("num_segments", "integer", "None")),
    "a traced number": (
        {"num_segments": "traced"},
        ("num_segments", "static_argnames"),
    ),
    "no segments": ({"num_segments": 0}, ("num_segments", "0")),
    "ids that are not an array": ({"segment_ids": "none"}, ("segment_ids", "array")),
}


@every_norm
@pytest.mark.parametrize("name", BAD)
def test_bad_input(name, norm, as_users_run_it):
    wrong, says = BAD[name]
    options = {"segment_ids": IDS, "num_segments": 2} | wrong

    def call(x, traced):
        given = {
            k: traced if isinstance(v, str) and v == "traced" else v
            for k, v in options.items()
        }
        return getattr(jaxnorm, norm)(x, **given)

    with refused(*says):
        jax.eval_shape(call, jnp.zeros((4, 3)), 2)


@pytest.mark.parametrize("norm", NORMS[1:])
def test_positions_are_reduced_anyway(norm, as_users_run_it):
    options = {"segment_ids": IDS, "num_segments": 2, "reduction_axes": (0, 1)}
    with refused("reduction_axes", "(0, 1)"):
        getattr(jaxnorm, norm)(jnp.zeros((4, 3)), **options)
