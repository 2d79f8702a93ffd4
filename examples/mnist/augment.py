"""Random shifts of images."""

import jax
import jax.numpy as jnp
from jax import lax


def random_shift(keys: jax.Array, images: jax.Array, pixels: int) -> jax.Array:
    """Shifts each image randomly by up to `pixels` along each axis; pads with zeros.

    Args:
      keys: (N,) random keys, one for each image.
      images: (N, H, W, C), any dtype.
      pixels: largest shift, up or down and left or right.

    Returns:
      The shifted images, of the same shape and dtype.
    """
    sides = ((0, 0), (pixels, pixels), (pixels, pixels), (0, 0))
    padded = jnp.pad(images, sides)

    def crop(key: jax.Array, image: jax.Array) -> jax.Array:
        corner = jax.random.randint(key, (2,), 0, 2 * pixels + 1)
        return lax.dynamic_slice(image, (*corner, 0), images.shape[1:])

    return jax.vmap(crop)(keys, padded)
