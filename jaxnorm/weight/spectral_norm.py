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

    The weight is seen as a matrix W of shape (-1, features), the last axis the output
    units. `n_steps` times::

        v = W u / sqrt(||W u||^2 + epsilon m^2)
        u = W' v / sqrt(||W' v||^2 + epsilon m^2)

    with m, the largest absolute value of W, so that the size of W does not matter;
    and then sigma = v' W u, which is at most the largest singular value and comes near
    it with the steps of all calls, if each starts from the u of the one before. For a
    cotangent G of W / sigma the gradient is that for constant u and v::

        dW = (G - <G, W / sigma> v u') / sigma

    In inference call it alike and drop the new u, so that the result depends on no call
    before. At the first call a random u gives a far too small sigma: start with some 15
    steps. Of a convolution this is the norm of the reshaped kernel, not of the
    operator.

    Args:
      w: Weight of two or more axes, floating, output features last (HWIO).
      u: Estimate of the right singular vector, of shape (features,); random normal
        numbers at the start. Its length does not matter.
      n_steps: Number of power iterations, at least 1; a Python integer.
      epsilon: Added to the squared norms, in units of the largest absolute value of w;
        at least 0. (Flax adds it as it is, and so leaves weights below 1e-6 too large.)
      restart: Whether a fixed u takes the place of one that is 0, which a weight of
        zeros leaves. If not, w passes as it is from then on, as in Flax.
      dtype: Dtype of the normalized weight; by default what w and u promote to.

    Returns:
      The weight divided by sigma, of the shape of w (w itself where sigma is 0); the
      new u, of the dtype of u, without gradient and, with `restart`, not 0 even where w
      is, so that later calls find the singular value; and sigma, a scalar in float32 or
      wider, whose gradient in w is v u'.

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
            "w must have at least two axes, since a spectral norm is that of a matrix, "
            f"got shape {w.shape}. Leave scalars and vectors, such as biases, as they "
            "are."
        )
    if u.shape != w.shape[-1:]:
        raise ValueError(
            f"u must have the shape {w.shape[-1:]}, the size of the last axis of w "
            f"{w.shape}, got {u.shape}. From a checkpoint of Flax take u[0]."
        )
    check_flags(restart=restart)
    result = output_dtype(dtype, w=w, u=u)
    wide = accumulation_dtype(result, w.dtype, u.dtype)
    inputs, outputs = tuple(range(w.ndim - 1)), (w.ndim - 1,)
    unit, _ = unit_of(w.astype(wide))
    matrix = w.astype(wide) / unit

    # Sums of products in place of a reshape and `@`: a reshape does not work on every
    # sharding, and accelerators multiply matrices in less than float32 by default.
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
    """Returns u, or a fixed vector if u is 0, which power iteration would keep.

    The vector has no structure, so that hardly any matrix is orthogonal to it.
    """
    start = jnp.cos(lax.broadcasted_iota(u.dtype, u.shape, u.ndim - 1))
    return u + start * (u == 0).all().astype(u.dtype)


def _check_real(value: Array, name: str) -> Array:
    array = check_inexact(value, name)
    if jnp.iscomplexobj(array):
        raise TypeError(f"{name} must be real, got {array.dtype}.")
    return array


def _check_n_steps(n_steps: int) -> int:
    n_steps = check_integer(n_steps, "n_steps")
    if n_steps < 1:
        raise ValueError(
            f"n_steps must be at least 1, got {n_steps}. To leave u as it is, drop the "
            "new one."
        )
    return n_steps
