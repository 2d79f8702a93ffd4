"""Rows: reductions over the last axis only, which XLA for GPUs treats specially.

Each row has threads of its own, and the fusion of its operations depends on its length.
"""

import math

from jax import Array

from jaxnorm._core.arguments.axes import sizes
from jaxnorm._core.reductions.reduction import Reduction

IN_ONE_KERNEL = 2**14
"""The longest row that XLA for GPUs reduces and normalizes in one kernel."""

NARROW = 255
"""The longest float32 row whose intermediate results XLA writes to memory."""


def has_rows(x: Array, reduction: Reduction, longest: int) -> bool:
    """Returns whether the reduction is over rows of at most `longest` elements.

    XLA needs more than one kernel to reduce several axes, unless they have size 1.
    """
    size = math.prod(sizes(x.shape, reduction.axes))
    return (
        reduction.blocks is None
        and x.ndim - 1 in reduction.axes
        and isinstance(size, int)
        and size == x.shape[-1] <= longest
    )
