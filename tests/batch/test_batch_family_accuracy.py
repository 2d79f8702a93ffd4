"""The batch family where features or examples differ by orders of magnitude."""

from typing import NamedTuple

import jax
import numpy as np
import oracles
import pytest
from support.batch_family import FAMILY, VIRTUAL, Normalizer
from support.drawing import draw, place
from support.tiers import matrix

SHAPE = (4, 40, 5)
FAR = 1e4 * (np.arange(5) == 0)
ALL = FAMILY | {
    "adaptive, 0": Normalizer("adaptive_batch_norm", {"strength": 0.0}),
    "virtual": VIRTUAL,
}
# Those that merge moments, and the core by these.
MERGED = ("adaptive", "switchable", "batch-instance", "ghost, pooled")


FIRST = (np.arange(4) == 0).reshape(4, 1, 1)
NONE = np.zeros(5, bool)


class Case(NamedTuple):
    """How x is drawn, and how near to it the running means are."""

    mean: np.ndarray  # of the features
    std: np.ndarray  # of the examples
    hidden: np.ndarray  # under the mask
    warm: bool


CASES = {
    # What the example lacks must not be seen in its other features.
    "missing": Case(FAR, np.ones(1), FIRST & (FAR > 0), warm=True),
    "empty": Case(FAR, np.ones(1), FAR > 0, warm=True),
    "cold": Case(np.full(5, 1e4), np.ones(1), NONE, warm=False),
    "cold, hidden": Case(np.full(5, 1e4), np.ones(1), FIRST & (FAR > 0), warm=False),
    "quiet": Case(np.full(5, 5.0), np.where(FIRST, 1e-3, 1), NONE, warm=True),
}


def with_means(name, state, params, mean):
    """The state, or what stands for it, with these running means."""
    if name == "virtual":
        return state, (place(mean), *params[1:])
    if name == "evo":  # which has none
        return state, params
    mean = mean[5 - state.mean.shape[-1] :]
    return state._replace(mean=place(np.broadcast_to(mean, state.mean.shape))), params


ROWS = [
    (name, case, fast, inference)
    for name in ALL
    for case, fast in [
        ("missing", True),
        ("missing", False),
        ("empty", True),
        ("empty", False),
        ("cold", False),  # in one pass likewise, as the next ones
        ("cold, hidden", False),
        ("quiet", False),
    ]
    for inference in (False, True)
    if name != "virtual" or (fast and not inference)
    # Without a running mean, one pass over large ones is what batch_norm says.
    if (name, case, fast, inference) != ("evo", "missing", True, False)
]
OFTEN = [
    *((name, "missing", False, False) for name in MERGED),
    *((name, "cold, hidden", False, False) for name in MERGED),
    *(
        ("switchable", *row)
        for row in [("missing", True, False), ("quiet", False, True)]
    ),
    *(("adaptive", *row) for row in [("empty", True, False), ("cold", False, False)]),
    ("batch-instance", "quiet", False, False),
    ("ghost, pooled", "empty", False, True),
]


@pytest.mark.parametrize(("name", "case", "fast", "inference"), matrix(ROWS, OFTEN))
def test_each_feature_of_each_example_is_accurate(name, case, fast, inference, rng):
    case, normalizer = CASES[case], ALL[name]
    state, params = normalizer.draw_state(rng), normalizer.draw_params(rng)
    near = case.mean + 0.3 if case.warm else np.zeros(5)
    state, params = with_means(name, state, params, near)
    x = draw(rng, SHAPE, loc=case.mean, std=case.std)
    mask = np.broadcast_to(~case.hidden, SHAPE)
    options, passes = {"epsilon": 1e-10}, {}  # which hides no error of a variance
    if name != "virtual":
        options["use_running_average"] = inference
        passes["use_fast_variance"] = fast
    y, new = jax.jit(normalizer.ours(**options, **passes))(x, mask, state, *params)
    expected, *rest = normalizer.oracle(x, mask, state, **options)(x, *params)
    for feature in range(5):
        for example in range(4):
            own = np.s_[example, :, feature]
            assert oracles.error(y[own], expected[own]) <= 1e-5, own
    for value, wanted in zip(jax.tree.leaves(new), rest, strict=True):
        assert oracles.error(value, wanted) <= 1e-5
