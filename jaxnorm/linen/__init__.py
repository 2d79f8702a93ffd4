"""Flax Linen modules over the functions of `jaxnorm`.

Those that `flax.linen` has too are drop-in supersets of its classes: the same
arguments, defaults, variables and initialization.
"""

from jaxnorm.linen.batch_norm import BatchNorm

__all__ = ["BatchNorm"]
