"""Images that are moved at random."""

from functools import partial

import augment
import jax
import numpy as np
import pytest


@partial(jax.jit, static_argnames="pixels")
def random_shift(images, pixels):
    keys = jax.random.split(jax.random.key(0), len(images))
    return augment.random_shift(keys, images, pixels)


def test_no_shift_changes_nothing(rng):
    images = rng.integers(0, 256, (3, 28, 28, 1), np.uint8)
    np.testing.assert_array_equal(random_shift(images, pixels=0), images)


@pytest.mark.parametrize("pixels", [1, 2])
def test_each_image_moves_by_at_most_so_many_pixels(pixels):
    image = np.zeros((28, 28, 1), np.uint8)
    image[10, 15] = 255
    images = np.stack([image] * 200)
    shifted = random_shift(images, pixels)
    assert shifted.shape == images.shape and shifted.dtype == images.dtype
    example, row, column, _ = np.nonzero(shifted)
    np.testing.assert_array_equal(example, np.arange(200))
    moves = {*zip((row - 10).tolist(), (column - 15).tolist(), strict=True)}
    sides = range(-pixels, pixels + 1)
    assert moves == {(down, right) for down in sides for right in sides}


def test_what_leaves_on_one_side_does_not_enter_on_the_other():
    shifted = random_shift(np.ones((50, 28, 28, 1), np.float32), pixels=2)
    lost = 28 * 28 - np.sum(shifted, axis=(1, 2, 3))
    assert lost.max() == 28 * 28 - 26 * 26
