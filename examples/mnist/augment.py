"""Digits in other places than those where they were written."""

import jax
import jax.numpy as jnp
from jax import lax


def random_shift(key: jax.Array, images: jax.Array, pixels: int) -> jax.Array:
    """Moves each image by up to `pixels` along each side, and fills with zeros.

    Args:
      key: of the random numbers; each image draws its own shift.
      images: (N, H, W, C), any dtype.
      pixels: at most so many, up or down, left or right.

    Returns:
      The images moved, of the same shape and dtype.
    """
    sides = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    padded = jnp.pad(images, sides)
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pixels + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

    return jax.vmap(crop)(padded, corners)
