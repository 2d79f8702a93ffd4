"""Numbers that are known while tracing, so that no program has to compute them.

A count without a mask is one, and so is a constant momentum. They are NumPy arrays,
since under `jax.jit` every operation of `jax.numpy` returns a traced array.
"""

import numpy as np
from jax import Array

MaybeKnown = Array | np.ndarray
"""An array; one of NumPy if it is known while tracing."""


def is_known(value: object) -> bool:
    """Returns whether a value is known while tracing."""
    return isinstance(value, np.ndarray | np.generic)
