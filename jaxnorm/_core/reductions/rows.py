"""Rows: elements along the last axis that are reduced together, and nothing else.

XLA for GPUs gives each row threads of its own, and fuses what is done with it by rules
that depend on its length.
"""

import math

from jax import Array

from jaxnorm._core.arguments.axes import sizes
from jaxnorm._core.reductions.reduction import Reduction

IN_ONE_KERNEL = 2**14
"""The longest row that XLA for GPUs reduces and normalizes in one kernel."""

NARROW = 255
"""The longest row of float32 of which it would write intermediate results to memory."""


def has_rows(x: Array, reduction: Reduction, longest: int) -> bool:
    """Returns whether rows of x, of at most `longest` elements, are what is reduced.

    XLA reduces several axes in more than one kernel, but for those of size 1.
    """
    size = math.prod(sizes(x.shape, reduction.axes))
    return (
        reduction.blocks is None
        and x.ndim - 1 in reduction.axes
        and isinstance(size, int)
        and size == x.shape[-1] <= longest
    )
