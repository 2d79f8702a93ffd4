"""Images that are moved at random."""

import augment
import jax
import jax.numpy as jnp
import numpy as np
import pytest


def test_no_shift_changes_nothing(rng):
    images = jnp.asarray(rng.integers(0, 256, (3, 28, 28, 1), np.uint8))
    shifted = augment.random_shift(
        jax.random.split(jax.random.key(0), len(images)), images, pixels=0
    )
    np.testing.assert_array_equal(shifted, images)


@pytest.mark.parametrize("pixels", [1, 2])
def test_each_image_moves_by_at_most_so_many_pixels(pixels):
    image = np.zeros((28, 28, 1), np.uint8)
    image[10, 15] = 255
    images = jnp.stack([image] * 200)
    shifted = augment.random_shift(
        jax.random.split(jax.random.key(0), len(images)), images, pixels
    )
    assert shifted.shape == images.shape and shifted.dtype == images.dtype
    example, row, column, _ = np.nonzero(shifted)
    np.testing.assert_array_equal(example, np.arange(200))
    moves = {*zip((row - 10).tolist(), (column - 15).tolist(), strict=True)}
    sides = range(-pixels, pixels + 1)
    assert moves == {(down, right) for down in sides for right in sides}


def test_what_leaves_on_one_side_does_not_enter_on_the_other():
    images = jnp.ones((50, 28, 28, 1))
    shifted = augment.random_shift(
        jax.random.split(jax.random.key(0), len(images)), images, pixels=2
    )
    lost = 28 * 28 - np.sum(shifted, axis=(1, 2, 3))
    assert lost.max() == 28 * 28 - 26 * 26
