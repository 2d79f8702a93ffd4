"""Normalizers of segments: values, derivatives, what is kept, and bad input."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import directional
from support.counting import assert_moments_are_kept
from support.drawing import draw, place
from support.jitted import jitted
from support.refusals import refused
from support.tiers import matrix

import jaxnorm

EPSILON = 0.03  # large enough to see where it is added
NORMS = ("graph_norm", "segment_layer_norm", "segment_rms_norm")
every_norm = pytest.mark.parametrize("norm", NORMS)


def parameters(norm, rng, shape, dtype=np.float32):
    """Those that a normalizer has, by name."""
    names = {"graph_norm": ("mean_scale", "scale", "bias")}
    names |= {"segment_layer_norm": ("scale", "bias"), "segment_rms_norm": ("scale",)}
    return {
        name: draw(rng, shape, dtype, loc=name != "bias", std=0.3)
        for name in names[norm]
    }


class Case(NamedTuple):
    """The segments of an input. An id that is negative or too large is of none."""

    shape: tuple[int, ...]
    ids: np.ndarray
    number: int
    mask: str | None = None
    features: tuple[int, ...] = (-1,)


ROWS = np.array([0, 0, 0, 1, 1, 3, 3])  # 2 has no position, 3 only at the end
CASES = {
    "nodes of graphs": Case((7, 3), ROWS, 4),
    "in no order": Case((7, 3), ROWS[[4, 0, 6, 3, 1, 5, 2]], 4, "bool"),
    "padding": Case((7, 3), np.array([-1, 0, 2, 2, 0, 3, 7]), 3),
    "padding, small ids": Case((7, 3), np.uint8([255, 0, 2, 2, 0, 3, 7]), 3),
    "a segment masked": Case((7, 3), ROWS, 4, "segment"),
    "all masked": Case((7, 3), ROWS, 4, "empty"),
    "images": Case((7, 2, 4, 3), ROWS, 4, "weights"),
    "packed rows": Case((3, 4, 3), np.array([[0] * 4, [0, 1, 1, 3], [5] * 4]), 6),
    "channels by two": Case((7, 2, 4, 3), ROWS, 4, "integer", (1, 3)),
}


def segments(case):
    return {"segment_ids": jnp.asarray(case.ids), "num_segments": case.number}


def draw_mask(case, make_mask):
    if case.mask != "segment":
        return make_mask(case.mask, case.shape)
    return jnp.asarray(case.ids != 1).reshape(-1, *[1] * (len(case.shape) - 1))


def hidden(case, mask):
    """Where what is not finite must reach nothing."""
    inside = (case.ids >= 0) & (case.ids < case.number)
    inside = inside.reshape(*inside.shape, *[1] * (len(case.shape) - inside.ndim))
    if mask is not None:
        inside = inside & (np.asarray(mask) != 0)
    return ~np.broadcast_to(inside, case.shape)


@functools.cache
def differentiated(norm, number, features):
    """y and gradients of the sum of weight y."""

    def step(x, params, segment_ids, mask, weight):
        def loss(x, params):
            y = getattr(jaxnorm, norm)(
                x,
                **params,
                segment_ids=segment_ids,
                num_segments=number,
                feature_axes=features,
                epsilon=EPSILON,
                mask=mask,
            )
            return jnp.sum(y * weight), y

        return jax.grad(loss, (0, 1), has_aux=True)(x, params)

    return jax.jit(step)


# Nearly all cases for graph norm, which has all that the others have.
OFTEN = [
    *((case, "graph_norm") for case in CASES if case != "nodes of graphs"),
    ("a segment masked", "segment_layer_norm"),
    ("packed rows", "segment_layer_norm"),
    ("padding", "segment_rms_norm"),
    ("images", "segment_rms_norm"),
]


@pytest.mark.parametrize(
    ("name", "norm"), matrix(itertools.product(CASES, NORMS), OFTEN)
)
def test_oracle(name, norm, rng, make_mask):
    case = CASES[name]
    mask, features = draw_mask(case, make_mask), case.features
    x = draw(rng, case.shape, loc=0.5, std=2)
    bad = rng.choice([np.nan, np.inf, 1e30], x.shape)
    hit = hidden(case, mask) & (rng.uniform(size=x.shape) < 0.5)
    x = place(np.where(hit, bad, x))
    params = parameters(norm, rng, tuple(case.shape[axis] for axis in features))
    weight = draw(rng, case.shape)
    step = differentiated(norm, case.number, features)
    (dx, rest), y = jax.device_get(step(x, params, jnp.asarray(case.ids), mask, weight))
    known = np.where(hit, np.nan, x)  # 1e30 comes out as what is not finite
    options = {"feature_axes": features, "epsilon": EPSILON, "mask": mask}

    def reference(x, *values):
        given = dict(zip(params, values, strict=True))
        function = getattr(oracles, norm)
        return function(x, **given, **segments(case), **options)

    arguments = (known, *params.values())
    assert oracles.error(y, reference(*arguments)) <= 1e-5
    np.testing.assert_array_equal(dx[hit], 0)

    def loss(*arguments):
        return np.sum(oracles.wide(weight) * reference(*arguments))

    for i, gradient in enumerate([dx, *(rest[name] for name in params)]):
        direction = rng.normal(size=gradient.shape)
        directions = [direction if j == i else None for j in range(len(arguments))]
        with np.errstate(invalid="ignore"):
            expected = directional(loss, arguments, directions)
        actual = np.sum(oracles.wide(gradient) * direction)
        size = max(np.linalg.norm(gradient), 0.1 * np.linalg.norm(weight))
        assert abs(actual - expected) <= 1e-5 * size, ("x", *params)[i]


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
    given = {"segment_ids": jnp.asarray(ids), "num_segments": 4, "epsilon": eps}

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
        y = function(x, segment_ids=jnp.asarray(ids))
        reference = getattr(oracles, norm)
        expected = reference(x, segment_ids=ids, num_segments=4)
        assert np.max(np.abs(oracles.wide(y) - expected)) <= 1e-5, ratio


def test_long_segments(rng):
    """Sums lose no digits, of x and of its cotangents."""
    half = 2**16
    x, weight = draw(rng, (2 * half, 1), loc=1e4), 1 + draw(rng, (2 * half, 1))
    ids = jnp.asarray(np.repeat([0, 1], half))

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
        segment_ids=jnp.asarray(ids),
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

    mapped, whole = both(x, jnp.asarray(ids), params)
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
    x, ids = draw(rng, (6, 3)), jnp.asarray(rng.integers(0, 2, 6))

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
    "no number": ({"num_segments": None}, ("num_segments", "static_argnames")),
    "a traced number": (
        {"num_segments": "traced"},
        ("num_segments", "static_argnames"),
    ),
    "no segments": ({"num_segments": 0}, ("num_segments", "0")),
    "ids that are no array": ({"segment_ids": "none"}, ("segment_ids", "array")),
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


def test_a_mean_scale_of_each_position(as_users_run_it):
    options = {"segment_ids": IDS, "num_segments": 2}
    with refused("mean_scale", "(4, 3)"):
        jaxnorm.graph_norm(jnp.zeros((4, 3)), jnp.ones((4, 3)), **options)
