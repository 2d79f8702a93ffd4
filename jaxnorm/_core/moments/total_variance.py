"""The law of total variance: what lies within groups, and what lies between them."""

from jax import Array

from jaxnorm._core.arrays.safe_math import real_inner_product


def mean_square_about(var: Array, distance: Array) -> Array:
    """Returns E|x - c|^2, of a variance and the distance of the mean of x from c.

    Its average over groups, by their counts, with c the mean of all, is the variance of
    all.
    """
    return var + real_inner_product(distance, distance)


def variance_of_two(a: Array, b: Array, distance: Array, weight: Array) -> Array:
    """Returns the variance of two groups together.

    Args:
      a: Variance of the first.
      b: Variance of the second.
      distance: Between their means.
      weight: The share of the second in all.
    """
    between = real_inner_product(distance, distance) * weight * (1 - weight)
    return a * (1 - weight) + b * weight + between
