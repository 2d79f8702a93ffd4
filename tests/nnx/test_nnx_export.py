"""Modules exported for a batch of any size, saved, loaded and called."""

import jax
import jax.numpy as jnp
import pytest
from exporting import saved_and_loaded
from family import TABLE as FUNCTIONS
from family import close, draw_arguments, draw_mask
from flax import nnx
from nnx_modules import (
    NAMES,
    TABLE,
    build,
    call,
    draw_variables,
    load,
    values,
    variables_of,
    view_of,
)
from tiers import matrix


def steps_of(name):
    """Inference; and a training step: gradients, y and the new statistics."""

    def infer(variables, x, mask):
        module = nnx.view(load(build(name), variables), **view_of(name))
        return call(name, module, x, mask)

    def train(variables, x, mask):
        def loss(module):
            y = call(name, module, x, mask)
            return jnp.sum(jnp.sin(y)), y

        module = load(build(name), variables)
        gradients, y = nnx.grad(loss, has_aux=True)(module)
        gradients = {k: v[...] for k, v in variables_of(gradients).items()}
        return gradients, y, values(module)

    return infer, train


# test_linen_export.py says what else is exported.
@pytest.mark.parametrize("name", matrix(NAMES, often=["SpectralNorm"]))
def test_export(name, as_users_run_it):
    """It computes the same."""
    x, *_ = draw_arguments(FUNCTIONS["rms_norm"])
    mask = draw_mask(FUNCTIONS["rms_norm"]) if TABLE[name].masked else None
    variables = draw_variables(name, x)
    for step in steps_of(name):
        program = saved_and_loaded(step, variables, x, mask)
        actual = jax.jit(program.call)(variables, x, mask)
        close(actual, jax.jit(step)(variables, x, mask), 2e-5)
