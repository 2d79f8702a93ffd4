"""Networks with the normalizer as an argument.

Each has a field `norm`, a function that returns a new normalizer: of `jaxnorm.linen`,
of `flax.linen`, or any module that maps an array to one of its shape.
"""
