"""`jax_debug_nans` and `jax_debug_infs` stop at what is wrong, and at nothing else."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawing import place
from support.family import TABLE, draw_arguments, draw_mask
from support.tiers import matrix

KINDS = {"finite": None, "NaN": np.nan, "infinity": np.inf, "empty": 0.0}


@contextlib.contextmanager
def debuggers():
    with jax.debug_nans(True), jax.debug_infs(True):
        yield


def arguments(name, kind):
    """x, params, state and mask, with something under the mask."""
    x, *others = draw_arguments(TABLE[name])
    mask = draw_mask(TABLE[name])
    if kind == "empty":
        mask = np.array(mask)
        mask[0] = False
        mask = jax.device_put(mask)
    elif kind != "finite":
        x = place(np.where(mask, x, KINDS[kind]))
    return x, *others, mask


def forward_and_gradients(name):
    def step(x, params, state, mask):
        def loss(x, params):
            y, new = TABLE[name].call(x, params, state, mask)
            if mask is not None:
                y = jnp.where(mask, y, 0)
            return jnp.sum(jnp.sin(y)), new

        return jax.grad(loss, (0, 1), has_aux=True)(x, params)

    return step


def run(name, kind, transform):
    step = transform(forward_and_gradients(name))
    *others, mask = arguments(name, kind)
    with debuggers():
        step(*others, mask)
        if kind == "finite":
            step(*others, None)


CASES = [
    (name, kind)
    for name in TABLE
    for kind in (KINDS if TABLE[name].masked else ["finite"])
]


@pytest.mark.parametrize(
    ("name", "kind"),
    matrix(
        (
            c
            for c in CASES
            # Whose first operation is to split x.
            if c[0] != "instance_batch_norm" or c[1] not in ("NaN", "infinity")
        ),
        often=[],
    ),
)
def test_operation_by_operation(name, kind):
    run(name, kind, lambda step: step)


@pytest.mark.parametrize(
    ("name", "kind"),
    matrix(
        CASES,
        often=[
            ("layer_norm", "finite"),
            ("layer_norm", "NaN"),
            ("batch_instance_norm", "infinity"),
            ("switchable_norm", "empty"),
        ],
    ),
)
def test_compiled(name, kind):
    run(name, kind, jax.jit)


def test_they_stop_at_what_is_wrong():
    """What is not finite and not masked."""
    x, *others, mask = arguments("layer_norm", "NaN")
    mask = ~mask
    with debuggers(), pytest.raises(FloatingPointError):
        TABLE["layer_norm"].call(x, *others, mask)


def test_what_was_traced_without_them():
    """Is not taken for what they look at."""
    step = forward_and_gradients("layer_norm")
    given = arguments("layer_norm", "NaN")
    step(*given)
    with debuggers():
        step(*given)
