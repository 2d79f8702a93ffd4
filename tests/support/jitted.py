"""Functions compiled whole: without jit, JAX compiles each operation by itself."""

import functools

import jax


@functools.cache
def jitted(function, **options):
    """One program for each function, set of options, and shapes and dtypes."""
    return jax.jit(functools.partial(function, **options))
