"""Modules exported for a batch of any size, saved, loaded and called."""

import functools

import jax
import jax.numpy as jnp
import pytest
from support.exporting import check_export
from support.family_entries import COLLECTIONS
from support.family_modules import TABLE, draw_variables
from support.tiers import matrix


def steps_of(name):
    """Inference; and a training step: gradients, y and the new statistics."""
    entry = TABLE[name]

    def infer(variables, x, mask):
        return entry.apply(entry.build(False), variables, x, mask, train=False)

    def train(variables, x, mask):
        def loss(params):
            y, new = entry.apply(
                entry.build(True),
                variables | {"params": params},
                x,
                mask,
                mutable=COLLECTIONS,
            )
            return jnp.sum(jnp.sin(y)), (y, new)

        return jax.grad(loss, has_aux=True)(variables["params"])

    return infer, train


# With statistics; NNX has one with the parameters of a layer. Functions are exported in
# test_symbolic_shapes.py.
@pytest.mark.parametrize("name", matrix(TABLE, often=["BatchNorm"]))
def test_export(name, as_users_run_it):
    draw = functools.partial(draw_variables, name)
    check_export(steps_of(name), draw, TABLE[name].masked)
