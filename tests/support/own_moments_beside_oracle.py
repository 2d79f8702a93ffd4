"""Norms of each example by their moments, beside the oracle: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from oracles import directional

from support.drawing import draw, place
from support.own_moments import CASES, Case
from support.tiers import matrix


def derivative(f, arguments, directions):
    """By differences of the fourth order; rounding leaves some twelve digits."""
    near, far = (directional(f, arguments, directions, h) for h in (1e-3, 2e-3))
    return (4 * near - far) / 3


def check(case, x, scale, bias, rng, tolerance, mask=None, **options):
    """Compare y, and the gradients of a random sum of it in random directions."""
    weight = draw(rng, case.shape, options.get("dtype") or jnp.result_type(x))
    arguments = (x, scale, bias)
    step = jitted(case.norm, tuple((case.options | options).items()))
    gradients, y = jax.device_get(step(*arguments, mask, weight))
    reference = case.oracle(mask=mask)
    assert oracles.error(y, reference(*arguments)) <= tolerance

    def loss(*arguments):
        return np.sum(np.real(np.conj(oracles.wide(weight)) * reference(*arguments)))

    for i, (argument, gradient) in enumerate(zip(arguments, gradients, strict=True)):
        if argument is None:
            assert gradient is None
            continue
        assert gradient.dtype == argument.dtype
        gradient = oracles.wide(gradient)
        for _ in range(3):
            direction = rng.normal(size=argument.shape)
            if np.iscomplexobj(gradient):
                direction = direction + 1j * rng.normal(size=argument.shape)
            directions = [None] * 3
            directions[i] = direction
            expected = derivative(loss, arguments, directions)
            actual = np.sum(np.real(gradient * direction))
            # 0.1: what an element of weight is multiplied by at least
            size = max(np.linalg.norm(gradient), 0.1 * np.linalg.norm(weight))
            assert abs(actual - expected) <= tolerance * size, ("x", "scale", "bias")[i]
    return y, gradients


@functools.cache
def jitted(norm, options):
    """One program for all cases of the same shapes, dtypes and options."""

    @jax.jit
    def step(x, scale, bias, mask, weight):
        ours = Case(norm, x.shape, None, None, options=dict(options)).ours(mask=mask)

        def loss(x, scale, bias):
            y = ours(x, scale, bias)
            return jnp.sum(jnp.real(jnp.conj(weight.astype(y.dtype)) * y)), y

        return jax.grad(loss, (0, 1, 2), has_aux=True)(x, scale, bias)

    return step


def hide(x, mask, rng, share=0.5):
    """x with numbers that are not finite in some places under the mask."""
    if mask is None:
        return x
    hit = (np.broadcast_to(mask, x.shape) == 0) & (rng.uniform(size=x.shape) < share)
    bad = rng.choice([np.nan, np.inf, -np.inf], x.shape)
    return place(np.where(hit, bad, x), x.dtype)


OFTEN = [
    "rms",
    "layer, offset",
    "layer, space too",
    "layer, parameters of two axes",
    "layer, scale of each element",
    "layer, mask of lower rank",
    "layer, nothing but masked",
    "rms, adaptive, space too",
    "rms, offset",
    "group, size",
    "group, channels first",
    "group, batch too",
    "group, mask that the features share",
    "group, of one feature, empty",
    "instance, two feature axes",
    "instance, no space",
    "instance, examples masked",
    "causal",
    "causal, of one group, adaptive",
    "causal, images, size, offset",
    "causal, examples masked",
]


def cases_of(norm):
    """The cases of one normalizer, by name."""
    own = [name for name, case in CASES.items() if case.norm == norm]
    return matrix(own, often=[name for name in OFTEN if name in own])


def check_case(name, rng, make_mask):
    case = CASES[name]
    mask = make_mask(case.mask, case.shape)
    check(
        case,
        hide(draw(rng, case.shape, loc=0.5, std=2), mask, rng),
        draw(rng, case.scale, loc=1),
        draw(rng, case.bias),
        rng,
        3e-5,
        mask=mask,
    )
