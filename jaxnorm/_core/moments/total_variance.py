"""The law of total variance: variance within groups and between them."""

from jax import Array

from jaxnorm._core.arrays.safe_math import real_inner_product


def mean_square_about(var: Array, distance: Array) -> Array:
    """Returns E|x - c|^2, given the variance of x and the distance of its mean from c.

    If c is the mean of several groups together, the average of this over the groups,
    weighted by their counts, is the variance of all.
    """
    return var + real_inner_product(distance, distance)


def variance_of_two(a: Array, b: Array, distance: Array, weight: Array) -> Array:
    """Returns the variance of two groups together.

    Args:
      a: Variance of the first.
      b: Variance of the second.
      distance: Between their means.
      weight: The share of the second group in the count of both.
    """
    between = real_inner_product(distance, distance) * weight * (1 - weight)
    return a * (1 - weight) + b * weight + between
