"""The normalizers of response_norms.py beside the oracle: values and gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
from oracles import directional

from support.drawing import draw
from support.response_norms import NORMS, draw_parameters
from support.tiers import matrix

TOLERANCE = 3e-5


CASES = {  # shape, feature axes, shape of scale and bias, of the other parameters
    "image": ((3, 2, 3, 4), -1, (4,), (4,)),
    "channels first": ((3, 4, 5), 1, (4,), (4,)),
    "two feature axes": ((3, 2, 4, 2), (3, 1), (2, 2), (2, 2)),
    "without space": ((5, 4), -1, (4,), (4,)),
    "without parameters": ((3, 5, 4), -1, None, ()),
    "scalars": ((3, 5, 4), -1, (4,), ()),
    "per example": ((3, 5, 4), -1, (3, 1, 4), (3, 1, 1)),
    "per element": ((3, 5, 4), -1, (1, 5, 4), (3, 5, 1)),
}


def gradients(reference, dy, x, parameters):
    """Those of sum(Re(conj(dy) y)), numerically; of complex arguments as JAX's."""
    names = [key for key, value in parameters.items() if value is not None]
    arguments = (oracles.wide(x), *(oracles.wide(parameters[key]) for key in names))

    def loss(x, *values):
        y = reference(x, **{**parameters, **dict(zip(names, values, strict=True))})
        return np.sum(np.real(np.conj(oracles.wide(dy)) * y))

    def along(index, unit):
        derivative = np.zeros(arguments[index].shape)
        for index_of_one in np.ndindex(derivative.shape):
            direction = np.zeros(derivative.shape, arguments[index].dtype)
            direction[index_of_one] = unit
            directions = [None] * len(arguments)
            directions[index] = direction
            derivative[index_of_one] = directional(loss, arguments, directions)
        return derivative

    result = []
    for index, argument in enumerate(arguments):
        gradient = along(index, 1)
        if np.iscomplexobj(argument):
            gradient = gradient - 1j * along(index, 1j)
        result.append(gradient)
    return result[0], dict(zip(names, result[1:], strict=True))


@functools.cache
def jitted(function, options):
    """One program for all masks of a dtype and shape."""

    @jax.jit
    def step(x, parameters, dy, mask):
        def loss(x, parameters):
            y = function(x, **parameters, **mask, **dict(options))
            return jnp.sum(jnp.real(jnp.conj(dy) * y)), y

        return jax.grad(loss, (0, 1), has_aux=True)(x, parameters)

    return step


def check(norm, reference, x, parameters, dy, tolerance=TOLERANCE, **options):
    """Compare y and all gradients of sum(Re(conj(dy) y)) with the reference's."""
    mask = {"mask": options["mask"]} if "mask" in options else {}
    static = sorted((key, options[key]) for key in options if key != "mask")
    step = jitted(norm.function, tuple(static))
    (dx, dparameters), y = jax.device_get(step(x, parameters, dy, mask))
    options.pop("dtype", None)
    reference = functools.partial(reference, **options)
    assert oracles.error(y, reference(x, **parameters)) <= tolerance
    # Numerically; what is not finite is a constant.
    expected_dx, expected = gradients(reference, dy, x, parameters)
    assert oracles.error(dx, expected_dx) <= tolerance
    assert dx.dtype == x.dtype
    for key, value in expected.items():
        assert oracles.error(dparameters[key], value) <= tolerance, key
        assert dparameters[key].dtype == parameters[key].dtype
    return y


OFTEN = {
    "filter_response_norm": ("image", "without parameters", "per element"),
    "global_response_norm": ("channels first", "per example"),
    "dynamic_tanh": ("two feature axes", "scalars"),
    "dynamic_erf": ("image",),
    "evo_norm_s0": ("image", "without space", "per element"),
}


def cases_of(name):
    """The cases of one normalizer; EvoNorm S0's groups are of one axis."""
    own = [c for c in CASES if (name, c) != ("evo_norm_s0", "two feature axes")]
    return matrix(own, often=OFTEN[name])


def check_case(name, case, rng):
    norm = NORMS[name]
    shape, feature_axes, *shapes = CASES[case]
    parameters = draw_parameters(rng, norm, *shapes)
    if name == "filter_response_norm" and case == "without parameters":
        parameters["threshold"] = None
    check(
        norm,
        norm.reference,
        draw(rng, shape, loc=0.5),
        parameters,
        draw(rng, shape),
        feature_axes=feature_axes,
        **norm.options,
    )
