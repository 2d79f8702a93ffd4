"""A model whose statistics are collected, and images for it."""

import pytest
from small_net import make_images, make_variables


@pytest.fixture
def images():
    return make_images()


@pytest.fixture
def variables():
    return make_variables()
