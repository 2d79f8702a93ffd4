"""What the batch family costs: collectives, and bytes saved for the backward pass."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from support.batch_family import FAMILY, VIRTUAL, ghosts
from support.counting import count_all_reduces
from support.drawing import draw
from support.modes import AXIS, ROWS, SAME, mesh_of
from support.tiers import matrix

SHAPE = (32, 8, 5)
ALL = {name: n for name, n in FAMILY.items() if not name.startswith("ghost")}
# Ghosts on one device, of four examples, share nothing but what the statistics need.
INSIDE = {rule: ghosts(2, rule) for rule in ("pooled", "mean", "sequential")}
ACROSS = {rule: ghosts(8, rule) for rule in INSIDE}
COUNTS = {  # of y alone, y and the new state, both with the gradients
    **{name: (normalizer, (1, 1, 2)) for name, normalizer in ALL.items()},
    **{f"inside, {rule}": (ghost, (0, 1, 1)) for rule, ghost in INSIDE.items()},
    **{f"across, {rule}": (ghost, (1, 1, 2)) for rule, ghost in ACROSS.items()},
}


def count_collectives(compiled):
    kinds = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return len(re.findall(rf" (?:{kinds})(?:-start)?\(", compiled.as_text()))


def outputs(forward):
    return lambda *arguments: forward(*arguments)[0]


def gradients(forward):
    """New state and gradients, those of the parameters on this device alone."""

    def step(x, mask, state, *params):
        def loss(x, *params):
            y, new = forward(x, mask, state, *params)
            return jnp.sum(jnp.sin(y)), new

        every = tuple(range(1 + len(params)))
        return jax.grad(loss, every, has_aux=True)(x, *params)

    return step


def problem(normalizer, rng, masked):
    x = draw(rng, SHAPE)
    mask = jax.device_put(rng.uniform(size=SHAPE) < 0.7) if masked else None
    return x, mask, normalizer.draw_state(rng), *normalizer.draw_params(rng)


UNCHECKED = ("renorm", "evo", "inside, sequential", "across, sequential")
MAPPED = [(name, True) for name in COUNTS]
MAPPED += [(name, False) for name in UNCHECKED]
OFTEN_MAPPED = [
    ("recurrent", True),
    ("evo", True),
    ("inside, pooled", True),
    ("across, mean", True),
    ("renorm", False),
    ("inside, sequential", False),
]


@pytest.mark.parametrize(("name", "check_vma"), matrix(MAPPED, OFTEN_MAPPED))
def test_collectives_in_shard_map(name, check_vma, rng):
    """Without checked types, averaging the state is one more, for the whole step.

    EvoNorm's joins the one of its statistics, since neither waits for the other.
    """
    normalizer, expected = COUNTS[name]
    arguments = problem(normalizer, rng, masked=check_vma)
    params = (SAME,) * (len(arguments) - 3)
    own = params if check_vma else (ROWS,) * len(params)
    forward = normalizer.ours(axis_name=AXIS)
    mapped = functools.partial(
        jax.shard_map,
        mesh=mesh_of(AxisType.Auto),
        in_specs=(ROWS, ROWS, SAME, *params),
        check_vma=check_vma,
    )
    programs = [
        mapped(forward, out_specs=(ROWS, SAME)),
        mapped(gradients(forward), out_specs=((ROWS, *own), SAME)),
    ]
    if name.startswith("inside"):
        programs.insert(0, mapped(outputs(forward), out_specs=ROWS))
    counts = [
        count_collectives(jax.jit(program).lower(*arguments).compile())
        for program in programs
    ]
    agreement = 0 if check_vma or name == "evo" else 1
    assert counts == [n + agreement for n in expected[-len(counts) :]]


@pytest.mark.parametrize(
    ("name", "agreement"),
    matrix(
        [("adaptive", 2), ("switchable", 2), ("batch-instance", 2), ("evo", 1)],
        often=[("batch-instance", 2), ("evo", 1)],
    ),
)
def test_the_backward_pass_repeats_no_collective(name, agreement, rng):
    """What it computes again begins behind them: one forward, one backward.

    As traced, since the CPU's compiler removes a repetition by itself; where types are
    not checked, and each running statistic has one more.
    """
    normalizer, _ = COUNTS[name]
    arguments = problem(normalizer, rng, masked=True)
    params = (SAME,) * (len(arguments) - 3)
    step = jax.shard_map(
        gradients(normalizer.ours(axis_name=AXIS)),
        mesh=mesh_of(AxisType.Auto),
        in_specs=(ROWS, ROWS, SAME, *params),
        out_specs=((ROWS, *(ROWS,) * len(params)), SAME),
        check_vma=False,
    )
    lowered = jax.jit(step).lower(*arguments)
    assert count_all_reduces(lowered) == agreement + 2


# Of ghosts on a masked batch that XLA divides only `pooled` is as cheap as on mapped
# axes; what the others need of each ghost is gathered first.
UNDER_JIT = [(name, True) for name in ALL]
UNDER_JIT += [("inside, pooled", True), ("inside, mean", False)]


@pytest.mark.parametrize(
    ("name", "masked", "kind"),
    matrix(
        (
            (*row, kind)
            for row in UNDER_JIT
            for kind in (AxisType.Auto, AxisType.Explicit)
        ),
        often=[
            ("renorm", True, AxisType.Auto),
            ("evo", True, AxisType.Explicit),
            ("inside, pooled", True, AxisType.Explicit),
            ("inside, mean", False, AxisType.Explicit),
        ],
    ),
)
def test_collectives_under_jit(name, masked, kind, rng):
    """Forward and backward together."""
    normalizer, expected = COUNTS[name]
    x, mask, *shared = problem(normalizer, rng, masked)
    mesh = mesh_of(kind)
    x, mask = jax.device_put((x, mask), NamedSharding(mesh, P(AXIS)))
    shared = jax.device_put(shared, NamedSharding(mesh, P()))
    step = jax.jit(gradients(normalizer.ours()))
    with jax.set_mesh(mesh):
        compiled = step.lower(x, mask, *shared).compile()
    assert count_collectives(compiled) == expected[-1]


SAVED = FAMILY | {"virtual": VIRTUAL}


@pytest.mark.parametrize(("dtype", "bar"), [(jnp.float32, 4), (jnp.bfloat16, 2)])
@pytest.mark.parametrize("name", matrix(SAVED, often=("adaptive", "renorm", "virtual")))
def test_saved_for_the_backward_pass_are_x_and_small_arrays(name, dtype, bar, rng):
    """Small: of a feature, or of a feature of an example. Nothing else is as large."""
    normalizer, shape = SAVED[name], (8, 16, 16, 4)
    mask = jax.device_put(np.arange(8).reshape(8, 1, 1, 1) < 6)
    state = normalizer.draw_state(rng, (4,))
    params = normalizer.draw_params(rng, (4,))
    forward = outputs(normalizer.ours(dtype=dtype))

    def backward(x, *params):
        return jax.vjp(lambda x, *ps: forward(x, mask, state, *ps), x, *params)[1]

    def nbytes(leaves):
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    x = jax.ShapeDtypeStruct(shape, dtype)
    saved = jax.tree.leaves(jax.eval_shape(backward, x, *params))
    large = [leaf for leaf in saved if leaf.size > x.size // 16]
    assert nbytes(large) / x.size == bar
    assert all(leaf.dtype == dtype for leaf in large)
    small = nbytes(saved) - bar * x.size
    assert small <= 4 * 16 * 8 * 4  # sixteen arrays of examples and features
