"""The batch family on one device beside the oracle: y, new state and gradients."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest

from support.batch_family import FAMILY, VIRTUAL, Normalizer
from support.drawing import draw, place
from support.tiers import matrix

ALL = FAMILY | {
    "adaptive, 0": Normalizer("adaptive_batch_norm", {"strength": 0.0}),
    "virtual": VIRTUAL,
}
ONE = {  # all by the batch, and all by instance
    f"instance-batch, {number}": Normalizer(
        "instance_batch_norm", {"instance_features": number}
    )
    for number in (0, 1)
}
ONE |= {name: n for name, n in ALL.items() if name != "instance-batch"}
CASES = {  # shape, feature axes, kinds of masks, whether scale and bias are one for all
    "no mask": ((8, 2, 12, 3), (3, 1), (), True),
    "channels first": ((8, 5, 3, 4), 1, ("integer",), True),
    "weights": ((8, 16, 5), -1, ("weights",), False),
    # Some examples have no valid element, some ghosts none, and one feature none.
    "holes": ((12, 10, 5), -1, ("examples", "empty feature"), True),
    "one feature": ((8, 10, 1), -1, ("bool",), True),
}


def derivative(f, arguments, directions):
    """The directional derivative, exact to the fourth order in the step."""
    long, short = (
        oracles.directional(f, arguments, directions, step) for step in (2e-4, 1e-4)
    )
    return (4 * short - long) / 3


def check(normalizer, x, mask, state, params, rng, tolerance, **options):
    """Compare y, the new state, and the gradients of sum(weight * y) along lines."""
    weight = draw(rng, x.shape, x.dtype)
    forward = normalizer.ours(**options)

    @jax.jit
    def step(x, *params):
        def loss(*arguments):
            y, new = forward(arguments[0], mask, state, *arguments[1:])
            assert new is state or not options.get("use_running_average")
            return jnp.sum(weight * y), (y, new)

        every = tuple(range(1 + len(params)))
        return jax.grad(loss, every, has_aux=True)(x, *params)

    gradients, (y, new) = step(x, *params)
    reference = normalizer.oracle(x, mask, state, **options)
    expected = reference(x, *params)
    for value, wanted in zip((y, *jax.tree.leaves(new)), expected, strict=True):
        assert oracles.error(value, wanted) <= tolerance

    def total(*arguments):
        return np.sum(reference(*arguments)[0] * oracles.wide(weight))

    for i, gradient in enumerate(map(oracles.wide, gradients)):
        for _ in range(2):
            directions = [None] * len(gradients)
            directions[i] = rng.normal(size=gradient.shape)
            wanted = derivative(total, (x, *params), directions)
            size = np.linalg.norm(gradient) + 0.1
            error = abs(np.sum(gradient * directions[i]) - wanted)
            assert error <= tolerance * size, f"argument {i}"


def problem(normalizer, case, rng, make_mask, dtype=np.float32):
    shape, axes, kinds, shared = CASES[case]
    if normalizer.name == "instance_batch_norm" and axes == (3, 1):
        axes = -1  # it has one feature axis
    features = tuple(np.take(shape, np.sort(np.atleast_1d(axes))))
    x = draw(rng, shape, dtype, loc=0.5, std=1.5)
    mask = None
    for kind in kinds:
        own = make_mask(kind, shape)
        mask = own if mask is None else jax.device_put(np.asarray(mask) & own)
        hidden = rng.choice([np.nan, np.inf, 2.0], shape)
        x = place(np.where(np.asarray(mask) != 0, x, hidden), dtype)
    state = normalizer.draw_state(rng, features, dtype)
    affine = None if shared else (shape[0], 1, *features)
    params = normalizer.draw_params(rng, features, affine, dtype)
    return (x, mask, state, params), {"feature_axes": axes}


# Each with one kind of input, and some with two.
OFTEN = {
    "no mask": ("renorm", "adaptive, 0"),
    "weights": ("renorm", "ghost, pooled", "ghost, mean", "adaptive", "switchable"),
    "holes": (
        "ghost, pooled",
        "ghost, sequential",
        "mean only",
        "recurrent",
        "batch-instance",
        "instance-batch",
        "evo",
        "virtual",
    ),
}


def trained(names):
    """Marks a test of training: each name with some of its cases, the rest in full."""
    cases = itertools.product(names, OFTEN)
    often = [(n, case) for case, own in OFTEN.items() for n in own if n in names]
    return pytest.mark.parametrize(("name", "case"), matrix(cases, often))


def check_training(name, case, rng, make_mask):
    arguments, options = problem(ALL[name], case, rng, make_mask)
    check(ALL[name], *arguments, rng, 3e-5, **options)
