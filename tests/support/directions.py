"""Gradients beside the oracle's derivatives along random directions."""

import numpy as np
import oracles
from oracles import directional


def check_gradients(rng, gradients, weight, reference, arguments):
    """Compares gradients of sum(weight * reference(*arguments)), None for none."""

    def loss(*arguments):
        return np.sum(oracles.wide(weight) * reference(*arguments))

    for i, gradient in enumerate(gradients):
        if gradient is None:
            continue
        direction = rng.normal(size=gradient.shape)
        directions = [direction if j == i else None for j in range(len(arguments))]
        with np.errstate(invalid="ignore"):
            expected = directional(loss, arguments, directions)
        size = max(np.linalg.norm(gradient), 0.1 * np.linalg.norm(weight))
        actual = np.sum(oracles.wide(gradient) * direction)
        assert abs(actual - expected) <= 1e-5 * size, i
