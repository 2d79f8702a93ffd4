"""The derivative rule of dynamic tanh and erf, in the form that GPUs are given."""

import jax
import numpy as np
import pytest
from support.drawing import draw, place

import jaxnorm
from jaxnorm.sample import pointwise

VECTORS = {"dynamic_tanh": 3, "dynamic_erf": 4}  # alpha, the shift of erf, scale, bias


@pytest.mark.parametrize("name", VECTORS)
def test_copies_of_x_for_kernels_change_no_derivative(name, rng, monkeypatch):
    """Neither the first nor the second, in any argument."""
    x, dy = draw(rng, (4, 3)), draw(rng, (4, 3))
    arguments = x, place(0.5), *(draw(rng, 3) for _ in range(VECTORS[name] - 1))
    tangents = tuple(draw(rng, np.shape(argument)) for argument in arguments)

    def derivatives():
        def pull(*arguments):
            y, back = jax.vjp(getattr(jaxnorm, name), *arguments)
            return y, back(dy)

        return jax.jit(lambda: jax.jvp(pull, arguments, tangents))()

    expected = derivatives()
    used = []

    def for_gpus(*of, gpu, default):
        del default
        used.append(gpu)
        return gpu(*of)

    monkeypatch.setattr(pointwise, "by_platform", for_gpus)
    actual = derivatives()
    assert used
    for a, b in zip(*map(jax.tree.leaves, (actual, expected)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
