"""Numbers that are known while tracing, of which nothing is left to be computed later.

A count without a mask is one, and a momentum that is not a schedule. They are NumPy
arrays; under `jax.jit` every operation of `jax.numpy` would make them traced.
"""

import numpy as np
from jax import Array

Known = Array | np.ndarray
"""An array, perhaps known while tracing."""


def is_known(value: object) -> bool:
    """Returns whether a value is known while tracing."""
    return isinstance(value, np.ndarray | np.generic)
