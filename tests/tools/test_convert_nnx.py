"""A model in Flax NNX and its twin in Linen, the one's state in the other."""

import itertools

import chex
import jax
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from support.drawing import place
from support.refusals import refused

import jaxnorm.linen
from jaxnorm import tools

WIDTHS = (3, 6, 4)
PATHS = {("norms", i): (f"BatchNorm_{i}",) for i in range(2)}
PATHS |= {("convs", i): (f"Conv_{i}",) for i in range(2)}


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        pairs = list(itertools.pairwise(WIDTHS))
        self.convs = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in pairs])
        self.norms = nnx.List(
            [nnx.BatchNorm(b, momentum=0.9, rngs=rngs) for _, b in pairs]
        )
        self.dropout = nnx.Dropout(0.5, rngs=rngs)  # whose state is not a variable

    def __call__(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nnx.relu(norm(conv(x)))
        return x


class Net(nn.Module):
    norm: type

    @nn.compact
    def __call__(self, x, train):
        for width in WIDTHS[1:]:
            x = nn.Conv(width, (3, 3))(x)
            x = nn.relu(self.norm(use_running_average=not train, momentum=0.9)(x))
        return x


def pure(model):
    return nnx.to_pure_dict(nnx.state(model, (nnx.Param, nnx.BatchStat)))


@pytest.mark.parametrize("norm", [nn.BatchNorm, jaxnorm.linen.BatchNorm])
def test_there_and_back(norm, rng):
    theirs, ours = NnxNet(nnx.Rngs(0)), Net(norm)
    x = place(rng.normal(1, 2, (4, 6, 5, 3)))
    run = nnx.jit(lambda model, x: model(x))  # train and eval are of the graph
    apply = jax.jit(ours.apply, static_argnames=("train", "mutable"))
    run(theirs, place(np.asarray(x) - 1))
    state = pure(theirs)
    variables = tools.variables_from_nnx(state, PATHS)
    chex.assert_trees_all_equal_shapes_and_dtypes(
        variables,
        jax.eval_shape(lambda x: ours.init(jax.random.key(0), x, train=False), x),
    )

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)

    y, updates = apply(variables, x, train=True, mutable=("batch_stats",))
    close(y, run(theirs, x))
    theirs.eval()
    close(apply({**variables, **updates}, x, train=False), run(theirs, x))

    back = tools.variables_to_nnx(variables, PATHS)
    assert back == state  # the same objects
    fresh = NnxNet(nnx.Rngs(1))
    moved = tools.variables_to_nnx({**variables, **updates}, PATHS)
    part = nnx.state(fresh, (nnx.Param, nnx.BatchStat))
    nnx.replace_by_pure_dict(part, moved)
    nnx.update(fresh, part)
    fresh.eval()
    close(run(fresh, x), run(theirs, x))


def test_leaves_go_where_they_belong():
    state = {
        "bn": {"scale": 1, "bias": 2, "mean": 3, "var": 4, "count": 5},
        "renorm": {"mean": 6, "std": 7, "count": 8},
        "evo": {"var": 14, "v": 15},
        "counter": {"count": 9},  # of no statistics
        "blocks": {0: {"norm": {"mean": 10, "var": 11}, "kernel": 12}},
        "gate": 13,
    }
    variables = tools.variables_from_nnx(
        state, {("blocks", 0): ("Block_0",), ("blocks", 0, "norm"): ("last",)}
    )
    assert variables == {
        "params": {
            "bn": {"scale": 1, "bias": 2},
            "evo": {"v": 15},
            "counter": {"count": 9},
            "Block_0": {"kernel": 12},
            "gate": 13,
        },
        "batch_stats": {
            "bn": {"mean": 3, "var": 4, "count": 5},
            "renorm": {"mean": 6, "std": 7, "count": 8},
            "evo": {"var": 14},
            "last": {"mean": 10, "var": 11},
        },
    }
    back = tools.variables_to_nnx(
        variables, {("blocks", 0): ("Block_0",), ("blocks", 0, "norm"): ("last",)}
    )
    assert back == state


def test_one_layer_by_itself():
    state = {"scale": 1, "mean": 2, "var": 3}
    variables = {"params": {"scale": 1}, "batch_stats": {"mean": 2, "var": 3}}
    assert tools.variables_from_nnx(state) == variables
    assert tools.variables_to_nnx(variables) == state
    nested = tools.variables_from_nnx(state, {(): ("bn",)})
    assert nested["params"] == {"bn": {"scale": 1}}


@pytest.mark.parametrize("convert", [tools.variables_from_nnx, tools.variables_to_nnx])
@pytest.mark.parametrize("paths", [{"bn": ("norm",)}, {("bn",): "norm"}])
def test_a_path_is_a_tuple(convert, paths, as_users_run_it):
    """A string would be taken letter by letter."""
    with refused("paths", "needs a comma"):
        convert({"params": {"norm": {"scale": 1}}}, paths)
