"""Per-example normalizers against plain autodiff, in float64, to the third order."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from support.drawing import draw, place
from support.own_moments import PLAIN, plain_norm
from support.tiers import matrix


def derivatives(loss, at, direction, order):
    """What JAX can ask of the rule, of a function of one vector."""
    gradient = jax.grad(loss)

    def along(f):
        return lambda point: jax.jvp(f, (point,), (direction,))

    if order == 2:
        return {"jvp": along(loss)(at), "hessian": jax.hessian(loss)(at)}
    return {
        "gradient, second and third": along(along(gradient))(at),
        "reverse over reverse": jax.grad(lambda p: jnp.vdot(gradient(p), direction))(
            at
        ),
    }


# The third order is that of one rule; group and instance norm are layer norm over other
# axes.
@pytest.mark.parametrize(
    ("name", "order"),
    matrix(
        [
            ("layer", 3),
            ("rms", 3),
            ("rms", 2),
            ("group", 3),
            ("causal", 3),
            ("causal", 2),
            ("instance", 2),
        ],
        often=[("layer", 3), ("rms", 2), ("causal", 2)],
    ),
)
def test_plain_autodiff(name, order, rng, make_mask, x64):
    """To the third order along a line, with weights and parameters of each example."""
    per_example = order == 3
    case, wide = PLAIN[name], jnp.float64
    shape = (3, *case.shape[1:])
    affine = (3 if per_example else 1, 1, shape[-1])
    x = draw(rng, shape, wide, loc=1, std=2)
    weights, projection = place(np.ones(shape), wide), draw(rng, shape, wide)
    if per_example:
        weights = np.where(make_mask("bool", shape), rng.uniform(size=shape), 0)
        weights = place(weights, wide)
    scale = draw(rng, affine, wide, loc=1)
    bias = draw(rng, affine if case.bias else (1, 1, 1), wide)
    flat, unravel = ravel_pytree((x, scale, bias))
    ours = case.ours(mask=weights if per_example else None)

    def rule(x, scale, bias):
        return ours(x, scale, bias) if case.bias else ours(x, scale) + bias

    def loss(norm):
        return lambda flat: jnp.sum(jnp.sin(norm(*unravel(flat))) * projection)

    direction = draw(rng, flat.shape, wide)
    actual, expected = (
        jax.jit(lambda at, norm=norm: derivatives(loss(norm), at, direction, order))(
            flat
        )
        for norm in (rule, plain_norm(case, weights))
    )
    chex.assert_trees_all_close(actual, expected, rtol=1e-8, atol=1e-8)
