"""The shape, the axes and the options of a random call."""

import math

import numpy as np


def draw_shape(rng, row):
    """Of rank 2 to 5, with axes of size 1 and, where there may be, 0."""
    ndim = int(rng.choice([2, 3, 3, 4, 4, 5]))
    shape = [int(rng.choice([1, 2, 3, 4, 6, 8])) for _ in range(ndim)]
    while math.prod(shape) > 600:
        i = int(np.argmax(shape))
        shape[i] = max(1, shape[i] // 2)
    if row.masked and rng.uniform() < 0.05:  # the others are of weights
        shape[rng.integers(ndim)] = 0
    return tuple(shape)


def draw_axes(rng, row, ndim):
    """Feature axes, of either sign and in any order."""
    first = 0 if row.features == "any" else 1
    match row.features:
        case "last":
            return ndim - 1
        case "one":
            axes = [rng.integers(1, ndim)]
        case _:
            number = 1 if rng.uniform() < 0.7 else rng.integers(1, ndim - first + 1)
            axes = rng.permutation(np.arange(first, ndim))[:number]
    axes = [int(axis) - ndim * int(rng.integers(2)) for axis in axes]
    return axes[0] if len(axes) == 1 and rng.uniform() < 0.7 else tuple(axes)


def draw_option(rng, option, shape, axes):
    """What is passed for one of a row's own options, in a dictionary."""

    def divisor(number):
        return int(rng.choice([n for n in range(1, number + 1) if number % n == 0]))

    axis = np.atleast_1d(axes)[0] if np.size(axes) else 0
    features = np.atleast_1d(axes) % len(shape)
    others = [i for i in range(len(shape)) if i not in features]
    match option:
        case "r_max":
            return {option: float(rng.choice([1.0, 1.5, 3.0]))}
        case "d_max":
            return {option: float(rng.choice([0.0, 0.3, 5.0]))}
        case "virtual_batch_size":
            return {option: divisor(max(shape[0], 1))}
        case "stats_rule":
            return {option: str(rng.choice(["pooled", "mean", "sequential"]))}
        case "strength":
            return {option: float(rng.choice([0.0, 0.5, 1.0, 4.0]))}
        case "step":
            return {option: int(rng.integers(4))}
        case "instance_features":
            return {option: int(rng.integers(shape[axis] + 1))}
        case "reference_size":
            return {option: int(rng.integers(1, 9))}
        case "include_self":
            return {option: bool(rng.uniform() < 0.8)}
        case "reduction_axes":
            number = rng.integers(1, len(shape) + 1)
            drawn = rng.permutation(len(shape))[:number]
            return {option: tuple(int(i) for i in drawn)}
        case "space" | "space and features":  # all but the first axis, where not given
            if rng.uniform() < 0.7:
                return {}
            drawn = rng.permutation(others)[: rng.integers(1, len(others) + 1)]
            drawn = [*drawn, axis] if option == "space and features" else drawn
            return {"reduction_axes": tuple(int(i) for i in drawn)}
        case "time_axis":
            return {option: int(rng.choice(others)) - len(shape) * int(rng.integers(2))}
        case "max_abs" | "max_count":
            number = float(rng.choice([0.7, 2.0, 30.0]))
            return [{}, {option: number}][int(rng.integers(2))]
        case "scale_offset":
            return {option: float(rng.integers(2))}
        case "gate_first" | "back" | "update" | "round_before_scale":
            return {option: bool(rng.integers(2))}
        case "activation":
            return {option: str(rng.choice(["silu", "sigmoid"]))}
        case "some_groups":
            number = divisor(max(shape[axis], 1))
            return [{}, {"num_groups": number}][int(rng.integers(2))]
        case "num_groups":
            return {option: divisor(max(shape[axis], 1))}
        case "group_size":  # in place of a number of groups, sometimes
            if rng.uniform() < 0.3 and shape[axis]:
                size = divisor(shape[axis])
                return {"num_groups": None, option: size}
            return {}
        case "n_steps":
            return {option: int(rng.integers(1, 4))}
    raise ValueError(option)
