"""What the batch family has in common, on one device, beside the oracle."""

import jax
import jax.numpy as jnp
import oracles
import pytest
from support.batch_family import FAMILY, KINDS
from support.batch_family_beside_oracle import (
    ALL,
    ONE,
    check,
    check_training,
    problem,
    trained,
)
from support.drawing import place
from support.tiers import matrix

# Those that have a file of their own for it.
ALONE = ("mean only", "evo")


@trained([name for name in ALL if name not in ALONE])
def test_training(name, case, rng, make_mask):
    check_training(name, case, rng, make_mask)


# Often those that cut the features in two.
@pytest.mark.parametrize(
    "name", matrix(ONE, often=[n for n in ONE if n.startswith("instance-batch")])
)
def test_one_feature(name, rng, make_mask):
    arguments, options = problem(ONE[name], "one feature", rng, make_mask)
    check(ONE[name], *arguments, rng, 3e-5, **options)


@pytest.mark.parametrize("name", matrix(FAMILY, often=("adaptive", "ghost, pooled")))
def test_inference(name, rng, make_mask):
    arguments, options = problem(ALL[name], "weights", rng, make_mask)
    options["use_running_average"] = True
    check(ALL[name], *arguments, rng, 3e-5, **options)


@pytest.mark.parametrize("name", matrix(ALL, often=KINDS))
def test_float64(name, rng, make_mask, x64):
    """Unbiased running variances, in two passes."""
    arguments, options = problem(ALL[name], "channels first", rng, make_mask, float)
    if name not in ("virtual", "renorm"):
        options["unbiased"] = True
    check(ALL[name], *arguments, rng, 1e-8, **options)


@pytest.mark.parametrize("name", matrix(FAMILY, often=KINDS[:2]))
def test_running_statistics_in_bfloat16(name, rng, make_mask):
    (x, mask, state, params), options = problem(ALL[name], "weights", rng, make_mask)
    state = jax.tree.map(lambda leaf: place(leaf, jnp.bfloat16), state)
    y, new = jax.jit(ALL[name].ours(**options))(x, mask, state, *params)
    expected, *wanted = ALL[name].oracle(x, mask, state, **options)(x, *params)
    assert oracles.error(y, expected) <= 3e-5
    for value, old, exact in zip(
        *map(jax.tree.leaves, (new, state)), wanted, strict=True
    ):
        assert value.dtype == old.dtype
        assert oracles.error(value, exact) <= 4e-3
