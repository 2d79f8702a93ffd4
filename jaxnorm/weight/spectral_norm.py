"""Spectral normalization by power iteration."""

import math

from jax import Array, lax
from jax import numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Float

from jaxnorm._core.arguments.align import align
from jaxnorm._core.arguments.validation import check_epsilon, check_flags, check_integer
from jaxnorm._core.arrays.dtypes import accumulation_dtype, check_inexact, output_dtype
from jaxnorm._core.arrays.sharding import shard_as
from jaxnorm.weight.unit import unit_of
from jaxnorm.weight.weight_norm import direction_and_length


def spectral_norm(
    w: Float[Array, "..."],
    u: Float[Array, " features"],
    *,
    n_steps: int = 1,
    epsilon: float = 1e-12,
    restart: bool = True,
    dtype: DTypeLike | None = None,
) -> tuple[Array, Array, Array]:
    """Divides a weight by its largest singular value.

    The weight is reshaped to a matrix W of shape (-1, features), whose last axis holds
    the output units. Power iteration repeats `n_steps` times::

        v = W u / sqrt(||W u||^2 + epsilon m^2)
        u = W' v / sqrt(||W' v||^2 + epsilon m^2)

    Here m is the largest absolute value of W, so that the size of W does not matter.
    Then sigma = v' W u. It is at most the largest singular value, and converges to it
    over the steps of all calls if each call starts from the u of the call before. The
    gradient treats u and v as constants; for a cotangent G of W / sigma it is::

        dW = (G - <G, W / sigma> v u') / sigma

    In inference, make the same call and drop the new u, so that the result does not
    depend on earlier calls. In the first call, a random u gives a sigma that is far too
    small: start with about 15 steps. For a convolution, sigma is the norm of the
    reshaped kernel, not of the operator.

    Args:
      w: Floating-point weight with two or more axes, output features last (HWIO).
      u: Estimate of the right singular vector, of shape (features,); initially random
        normal numbers. Its length does not matter.
      n_steps: Number of power iterations, at least 1; a Python integer.
      epsilon: Added to the squared norms, in units of the largest absolute value of w;
        at least 0. (Flax adds epsilon itself, and so leaves weights below 1e-6 too
        large.)
      restart: Whether to replace a u of zeros, which a weight of zeros produces, by a
        fixed vector. Without it, w is returned unchanged from then on, as in Flax.
      dtype: Dtype of the normalized weight; by default what w and u promote to.

    Returns:
      The weight divided by sigma, of the shape of w (w itself where sigma is 0); the
      new u, with the dtype of u and without gradient; and sigma, a scalar in float32 or
      wider, whose gradient with respect to w is v u'. With `restart`, the new u is not
      0 even if w is, so that later calls find the singular value.

    Raises:
      TypeError: If w or u is not real and floating, or n_steps is not an integer.
      ValueError: If w has fewer than two axes, u is not of shape (features,), n_steps
        is less than 1, or epsilon is negative.

    Reference:
      Miyato et al., 2018, Spectral Normalization, equation 8 and algorithm 1
      (https://arxiv.org/abs/1802.05957).

    Example:
      >>> import jax.numpy as jnp, jaxnorm
      >>> w = jnp.array([[4.0, 0.0], [0.0, 1.0]])
      >>> normalized, u, sigma = jaxnorm.spectral_norm(w, jnp.ones(2), n_steps=15)
      >>> normalized.round(3)
      Array([[1.  , 0.  ],
             [0.  , 0.25]], dtype=float32)
      >>> sigma.round(3)
      Array(4., dtype=float32)
    """
    w, u = _check_real(w, "w"), _check_real(u, "u")
    n_steps, epsilon = _check_n_steps(n_steps), check_epsilon(epsilon)
    if w.ndim < 2:
        raise ValueError(
            "w must have at least two axes, because only matrices have spectral norms, "
            f"got shape {w.shape}. Leave out scalars and vectors, such as biases."
        )
    if u.shape != w.shape[-1:]:
        raise ValueError(
            f"u must have the shape {w.shape[-1:]}, the size of the last axis of w "
            f"{w.shape}, got {u.shape}. If u is from a Flax checkpoint, pass u[0]."
        )
    check_flags(restart=restart)
    result = output_dtype(dtype, w=w, u=u)
    wide = accumulation_dtype(result, w.dtype, u.dtype)
    inputs, outputs = tuple(range(w.ndim - 1)), (w.ndim - 1,)
    unit, _ = unit_of(w.astype(wide))
    matrix = w.astype(wide) / unit

    # Sums of products replace a reshape and `@`, because some shardings do not allow
    # the reshape, and accelerators multiply matrices in less than float32 by default.
    def forward(matrix: Array, right: Array) -> Array:
        return jnp.sum(matrix * right, -1, keepdims=True)

    right = align(lax.stop_gradient(u.astype(wide)), w, (w.ndim - 1,), "u")
    revive = _start_if_zero if restart else jnp.asarray
    right, _ = direction_and_length(revive(right), outputs)
    constant = lax.stop_gradient(matrix)
    least = math.sqrt(epsilon) * jnp.abs(constant).max(initial=0.0)
    for _ in range(n_steps):
        left, _ = direction_and_length(
            forward(constant, right), (*inputs, *outputs), least
        )
        right = jnp.sum(constant * left, inputs, keepdims=True)
        right, _ = direction_and_length(right, outputs, least)
    sigma = jnp.sum(left * forward(matrix, right))

    normalized = matrix / jnp.where(sigma != 0, sigma, 1 / unit.reshape(()))
    new_u = shard_as(u, revive(right).reshape(u.shape).astype(u.dtype))
    return normalized.astype(result), new_u, sigma * unit.reshape(())


def _start_if_zero(u: Array) -> Array:
    """Returns u, or a fixed vector if u is 0, where power iteration would get stuck.

    The vector has no structure, so that it is orthogonal to hardly any singular vector.
    """
    start = jnp.cos(lax.broadcasted_iota(u.dtype, u.shape, u.ndim - 1))
    return u + start * (u == 0).all().astype(u.dtype)


def _check_real(value: Array, name: str) -> Array:
    """Returns the array, if it is floating and real."""
    array = check_inexact(value, name)
    if jnp.iscomplexobj(array):
        raise TypeError(
            f"{name} must be real, got {array.dtype}. For complex weights, use "
            "weight_norm."
        )
    return array


def _check_n_steps(n_steps: int) -> int:
    """Returns the number of steps, if it is an integer of at least 1."""
    n_steps = check_integer(n_steps, "n_steps")
    if n_steps < 1:
        raise ValueError(
            f"n_steps must be at least 1, got {n_steps}. To keep the old u, ignore the "
            "returned one."
        )
    return n_steps
