"""Modules exported for a batch of any size, saved, loaded and called."""

import jax
import jax.numpy as jnp
import pytest
from exporting import saved_and_loaded
from family import TABLE as FUNCTIONS
from family import close, draw_arguments, draw_mask
from family_entries import COLLECTIONS
from family_modules import TABLE, draw_variables
from tiers import matrix


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
    """It computes the same."""
    x, *_ = draw_arguments(FUNCTIONS["rms_norm"])
    mask = draw_mask(FUNCTIONS["rms_norm"]) if TABLE[name].masked else None
    variables = draw_variables(name, x)
    for step in steps_of(name):
        program = saved_and_loaded(step, variables, x, mask)
        actual = jax.jit(program.call)(variables, x, mask)
        close(actual, jax.jit(step)(variables, x, mask), 2e-5)
