"""Normalizers of segments, their cases, and the oracle beside them."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from oracles import directional

import jaxnorm
from support.drawing import draw, place
from support.tiers import matrix

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
    return {"segment_ids": jax.device_put(case.ids), "num_segments": case.number}


def draw_mask(case, make_mask):
    if case.mask != "segment":
        return make_mask(case.mask, case.shape)
    return jax.device_put((case.ids != 1).reshape(-1, *[1] * (len(case.shape) - 1)))


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


# Most for graph norm, which has all that the others have.
OFTEN = [
    ("in no order", "graph_norm"),
    ("padding", "graph_norm"),
    ("padding, small ids", "graph_norm"),
    ("all masked", "graph_norm"),
    ("channels by two", "graph_norm"),
    ("a segment masked", "segment_layer_norm"),
    ("packed rows", "segment_layer_norm"),
    ("padding", "segment_rms_norm"),
    ("images", "segment_rms_norm"),
]


def cases_of(norm):
    """The cases of one normalizer."""
    return matrix(CASES, often=[case for case, own in OFTEN if own == norm])


def check_case(name, norm, rng, make_mask):
    case = CASES[name]
    mask, features = draw_mask(case, make_mask), case.features
    x = draw(rng, case.shape, loc=0.5, std=2)
    bad = rng.choice([np.nan, np.inf, 1e30], x.shape)
    hit = hidden(case, mask) & (rng.uniform(size=x.shape) < 0.5)
    x = place(np.where(hit, bad, x))
    params = parameters(norm, rng, tuple(case.shape[axis] for axis in features))
    weight = draw(rng, case.shape)
    step = differentiated(norm, case.number, features)
    (dx, rest), y = jax.device_get(
        step(x, params, jax.device_put(case.ids), mask, weight)
    )
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
