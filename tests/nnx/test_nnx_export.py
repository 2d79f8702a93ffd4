"""Modules exported for a batch of any size, saved, loaded and called."""

import functools

import jax.numpy as jnp
import pytest
from flax import nnx
from support.exporting import check_export
from support.nnx_modules import (
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
from support.tiers import matrix


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
    draw = functools.partial(draw_variables, name)
    check_export(steps_of(name), draw, TABLE[name].masked)
