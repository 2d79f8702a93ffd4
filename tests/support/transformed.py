"""Normalizers of weights: values, gradients, and JAX's transformations."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec


@functools.cache
def step_of(norm, **options):
    """What a function of two arrays gives, and gradients of the sum of dw times it.

    Of several results the first. One program for each set of options and shapes.
    """

    @jax.jit
    def step(dw, w, other):
        def loss(w, other):
            results = norm(w, other, **options)
            first = results[0] if isinstance(results, tuple) else results
            return jnp.sum((jnp.conj(dw) * first).real), results

        gradients, results = jax.grad(loss, (0, 1), has_aux=True)(w, other)
        return results, *jax.tree.map(jnp.conj, gradients)

    return step


def put_along(axis, axis_type, *arrays):
    """A mesh of two devices, with arrays of two axes, or of the last, sharded there."""
    mesh = jax.make_mesh((2,), ("model",), (axis_type,), devices=jax.devices()[:2])
    spec = [None, None]
    spec[axis] = "model"

    def put(array):
        sharding = NamedSharding(mesh, PartitionSpec(*spec[2 - array.ndim :]))
        return jax.device_put(array, sharding)

    return mesh, *map(put, arrays)


def check_derivative(derivative, functions, arguments, tangents, weight, tolerance):
    """Compares the derivatives of functions of w and maybe more, in all arguments."""
    every = tuple(range(len(arguments)))
    results = []
    for function in functions:

        def loss(*arguments, function=function):
            return jnp.sum(jnp.sin(function(*arguments)) * weight)

        derive = {
            "grad": jax.grad(loss, every),
            "jvp": lambda *a, loss=loss: jax.jvp(loss, a, tangents),
            "hessian": jax.hessian(loss, every),
        }[derivative]
        results.append(jax.jit(derive)(*arguments))
    chex.assert_trees_all_close(*results, rtol=tolerance, atol=tolerance)


def check_layers(loss, arguments, argnums, rtol=1e-5):
    """Compares gradients of stacked layers: in turn, by vmap, in a scan, with remat.

    Args:
      loss: Takes the arguments of one layer; returns a scalar and an array or more.
      arguments: With a leading axis of layers.
      argnums: In which of them to differentiate.
    """
    gradient = jax.grad(loss, argnums, has_aux=True)
    one = jax.jit(gradient)
    each = [one(*layer) for layer in zip(*map(np.asarray, arguments), strict=True)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *each)

    def over_layers(*arguments):
        step = lambda carry, layer: (carry, loss(*layer))  # noqa: E731
        _, (losses, rest) = jax.lax.scan(step, None, arguments)
        return losses.sum(), rest

    @jax.jit
    def every(*arguments):
        remat = jax.grad(jax.checkpoint(loss), argnums, has_aux=True)
        return (
            jax.vmap(gradient)(*arguments),
            jax.grad(over_layers, argnums, has_aux=True)(*arguments),
            jax.vmap(remat)(*arguments),
        )

    for actual in every(*arguments):
        chex.assert_trees_all_close(actual, expected, rtol=rtol, atol=1e-5)
