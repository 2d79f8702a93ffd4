"""Another tree than the one that a tool takes is an error, and not left as it is."""

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import nnx, struct
from flax.training import train_state
from support.drawing import ones
from support.refusals import refused

import jaxnorm.linen
import jaxnorm.nnx
from jaxnorm import tools

pytestmark = pytest.mark.usefixtures("as_users_run_it")

MODEL = nn.Sequential(
    [nn.Dense(4), jaxnorm.linen.BatchNorm(use_running_average=True), nn.Dense(2)]
)
X = ones((3, 2))


@struct.dataclass
class TrainState(train_state.TrainState):
    batch_stats: dict


def trees():
    variables = jax.jit(MODEL.init)(jax.random.key(0), X)
    state = TrainState.create(apply_fn=None, tx=optax.adam(0.1), **variables)
    moments = MODEL.apply(variables, X, mutable=["batch_moments"])[1]["batch_moments"]
    return {
        "variables": variables,
        "params": variables["params"],
        "batch_stats": variables["batch_stats"],
        "batch_moments": moments,
        "statistics alone": {"batch_stats": variables["batch_stats"]},
        "a TrainState": state,
        "a Linen model": MODEL,
        "an NNX model": jaxnorm.nnx.BatchNorm(4, rngs=nnx.Rngs(0)),
        "an array": X,
        "nothing": None,
        "all in a list": [variables],
        "all in a dict": {"model": variables},
        "a pair": (variables["params"], variables["batch_stats"]),
    }


TREES = trees()
RIGHT = TREES["batch_stats"], TREES["batch_moments"]


def full_batch(stats):
    def loss(params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        y, moments = MODEL.apply(variables, x, mutable=["batch_moments"])
        return y.sum(), moments["batch_moments"]

    step = tools.full_batch_value_and_grad(loss, depth=1)
    return step(TREES["params"], stats, X[None])


NO_TREES = ("a Linen model", "an array", "nothing")
NO_COLLECTION = ("variables", "params", "a TrainState", "an NNX model", *NO_TREES)
# The tool, what its error says, and of which trees.
TOOLS = {
    "merge statistics": (
        lambda tree: tools.merge_batch_stats([RIGHT[0], tree]),
        ("trees[1]", "batch_stats"),
        (*NO_COLLECTION, "batch_moments"),
    ),
    "merge moments": (
        lambda tree: tools.merge_batch_moments([RIGHT[1], tree]),
        ("trees[1]", "batch_moments"),
        NO_COLLECTION,
    ),
    "merge one": (
        tools.merge_batch_moments,
        ("trees", "batch_moments"),
        (*NO_COLLECTION, "batch_moments"),
    ),
    "apply to": (
        lambda tree: tools.apply_batch_moments(tree, RIGHT[1]),
        ("batch_stats",),
        (*NO_COLLECTION, "batch_moments"),
    ),
    "apply": (
        lambda tree: tools.apply_batch_moments(RIGHT[0], tree),
        ("batch_moments",),
        NO_COLLECTION,
    ),
    "full batch": (full_batch, ("batch_stats",), (*NO_COLLECTION, "batch_moments")),
    "suggest folds": (
        tools.suggest_folds,
        ("variables", "nnx.to_pure_dict(nnx.state(model))"),
        [name for name in TREES if name != "variables"],
    ),
    "mask": (
        tools.normalization_mask,
        ("variables",),
        ("batch_stats", "batch_moments", "statistics alone", "a TrainState"),
    ),
    "mask of batch norms": (
        lambda tree: tools.normalization_mask(tree, only_with_statistics=True),
        ("variables",),
        ("params", "nothing", "statistics alone", "a TrainState"),
    ),
    "freeze all": (
        lambda tree: tools.freeze_parameters(
            optax.sgd(0.1), tree, only_with_statistics=False
        ),
        ("variables",),
        ("batch_stats", "a TrainState", *NO_TREES),
    ),
    "shift scales": (  # those of the optimizer's state, too
        lambda tree: tools.shift_scales(tree, [()], 1.0),
        (),
        ("batch_stats", "a TrainState", *NO_TREES),
    ),
    "check scales": (
        lambda tree: tools.check_scales(tree, [()], scale_offset=0.0),
        (),
        ("batch_stats", "a TrainState", *NO_TREES),
    ),
    "from NNX": (tools.variables_from_nnx, ("state", "Linen"), ("variables",)),
}


@pytest.mark.parametrize(
    ("tool", "tree"), [(t, tree) for t, (*_, wrong) in TOOLS.items() for tree in wrong]
)
def test_refused(tool, tree):
    call, says, _ = TOOLS[tool]
    with refused(*says):
        call(TREES[tree])


def test_what_is_right_is_taken():
    variables, (stats, moments) = TREES["variables"], RIGHT
    for tool in ("merge statistics", "apply to", "full batch"):
        TOOLS[tool][0](stats)
    for tool in ("merge moments", "apply"):
        TOOLS[tool][0](moments)
    for tool in ("suggest folds", "mask", "mask of batch norms", "shift scales"):
        assert jax.tree.leaves(TOOLS[tool][0](variables))
    for empty in ({}, nnx.State({})):  # of a model without batch norms
        assert tools.merge_batch_stats([empty, empty]) == {}
        assert tools.apply_batch_moments(empty, empty) == {}


def test_a_statistic_may_have_the_name_of_a_parameter():
    tree = {"norm": {"mean": ones(2), "var": ones(2)}, "quantizer": {"scale": ones(2)}}
    merged = tools.merge_batch_stats([tree, tree])
    np.testing.assert_array_equal(merged["quantizer"]["scale"], ones(2))
