"""Trees whose layers stand in lists, of users' own models: as with dicts by index."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.drawing import ones, place, zeros
from support.family import close
from support.refusals import refused

import jaxnorm
from jaxnorm import tools
from jaxnorm.tools._trees import is_node

pytestmark = pytest.mark.usefixtures("annotations_checked")


def layer(first):
    return {
        "mean": place([first, 1.0]),
        "var": place([1.0, first]),
    }


STATS = {
    "layers": [layer(2.0), {"block": (layer(3.0), layer(4.0))}],
    "top": layer(5.0),
}
X = place([[1.0, 3.0], [5.0, 4.0], [0.0, 2.0]])
MOMENTS = jax.tree.map(
    lambda _: jaxnorm.batch_moments(X)._asdict(), STATS, is_leaf=lambda t: "mean" in t
)
PARAMS = {
    "layers": [
        {"kernel": ones((2, 2))},
        {"norm": ({"scale": ones(2), "bias": zeros(2)},)},
    ]
}


def as_dicts(tree):
    """The same tree with lists, tuples and named tuples as dicts."""
    if hasattr(tree, "_asdict"):
        tree = tree._asdict()
    if isinstance(tree, list | tuple) and is_node(tree):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        return {key: as_dicts(value) for key, value in tree.items()}
    return tree


def full_batch(stats, moments):
    def loss(params, batch_stats, x):
        return params * jnp.sum(x), moments

    step = tools.full_batch_value_and_grad(loss, depth=1)
    return step(1.0, stats, X[None])


def diagnosed(stats, moments):
    def apply(variables, batch, train):
        return batch, moments

    return tools.diagnose(apply, {"batch_stats": stats}, X).layers


def recalibrated(stats, moments):
    def apply(variables, batch):
        return moments

    return tools.recalibrate(apply, {"batch_stats": stats}, [X], prior_examples=2)


OF_STATISTICS = {
    "merge statistics": lambda s, m: tools.merge_batch_stats([s, s], counts=[1, 2]),
    "merge moments": lambda s, m: tools.merge_batch_moments([m, m]),
    "update": lambda s, m: tools.apply_batch_moments(s, m, momentum=0.5),
    "recalibrate": recalibrated,
    "diagnose": diagnosed,
    "full batch": full_batch,
}


@pytest.mark.parametrize("name", OF_STATISTICS)
def test_statistics(name):
    tool = OF_STATISTICS[name]
    result = tool(STATS, MOMENTS)
    close(as_dicts(result), as_dicts(tool(as_dicts(STATS), as_dicts(MOMENTS))))
    if name in ("merge statistics", "update", "recalibrate"):
        assert jax.tree.structure(result) == jax.tree.structure(STATS)


def test_one_of_numbers_is_an_array():
    """As a checkpoint in JSON has them."""
    merged = tools.merge_batch_stats(
        [{"norm": {"mean": [0.0, 2.0], "var": [1.0, 1.0]}}]
    )
    np.testing.assert_array_equal(merged["norm"]["mean"], [0.0, 2.0])


def test_named_tuples():
    stats = {"norm": jaxnorm.BatchStats(*layer(2.0).values())}
    merged = tools.merge_batch_stats([stats, stats])
    assert isinstance(merged["norm"], jaxnorm.BatchStats)
    close(as_dicts(merged), tools.merge_batch_stats([as_dicts(stats)] * 2))


def test_masks():
    mask = tools.normalization_mask(PARAMS)
    assert as_dicts(mask) == tools.normalization_mask(as_dicts(PARAMS))
    assert mask["layers"][1]["norm"][0] == {"scale": True, "bias": True}
    optimizer = tools.freeze_parameters(
        optax.sgd(1.0), PARAMS, only_with_statistics=False
    )
    updates, _ = optimizer.update(PARAMS, optimizer.init(PARAMS), PARAMS)
    assert not np.any(updates["layers"][1]["norm"][0]["scale"])
    assert np.all(updates["layers"][0]["kernel"] == -1)


def test_inserting():
    new = {"layers": {1: {"norm": [{"bias": jnp.full(2, 3.0)}]}}}
    inserted = tools.insert_variables(PARAMS, new)
    assert jax.tree.structure(inserted) == jax.tree.structure(PARAMS)
    np.testing.assert_array_equal(inserted["layers"][1]["norm"][0]["bias"], [3.0, 3.0])
    with refused("layers", "(2,)", "(3,)"):
        tools.insert_variables(PARAMS, {"layers": {1: {"norm": [{"bias": zeros(3)}]}}})


def test_between_linen_and_nnx():
    """The pure dict of an NNX model has dicts by index."""
    merged = {"layers": [{"scale": 1, "mean": 2, "var": 3}, {"kernel": 4}]}
    variables = tools.variables_from_nnx(merged)
    assert variables == tools.variables_from_nnx(as_dicts(merged))
    assert variables["batch_stats"] == {"layers": {0: {"mean": 2, "var": 3}}}
    assert tools.variables_to_nnx(variables) == as_dicts(merged)


def test_folds():
    layers = [{"kernel": ones((3, 2))}, layer(2.0)]
    (fold,) = tools.suggest_folds({"conv1": layers[0], "bn1": layers[1]})
    fold = tools.Fold(layer=("layers", 0), norm=("layers", 1), epsilon=fold.epsilon)
    variables, x = {"layers": layers}, ones((1, 3))

    def apply(variables, x):
        stats = jaxnorm.BatchStats(**variables["layers"][1])
        x = x @ variables["layers"][0]["kernel"]
        return jaxnorm.batch_norm(x, stats, use_running_average=True)[0]

    def folded_apply(variables, x):
        layer = variables["layers"][0]
        return x @ layer["kernel"] + layer["bias"][None]

    options = {"apply": apply, "folded_apply": folded_apply, "batch": x}
    folded = tools.fold_model(variables, [fold], **options)
    close(folded, tools.fold_model(as_dicts(variables), [fold], **options))


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize("write", [tools.norms_to_torch, tools.norms_to_keras])
def test_names_for_other_frameworks_are_strings(write):
    """A path with an index is refused where names are made of paths."""
    with refused("tuple of strings", "layers"):
        write({"batch_stats": STATS})


# ---- what is missing, or does not fit


def test_variables_without_statistics():
    for tool in (tools.recalibrate, tools.diagnose):
        for variables in ({"params": PARAMS}, {"params": PARAMS, "batch_stats": {}}):
            with refused("batch_stats", "params", "running statistics"):
                tool(lambda *_: {}, variables, [X])


@pytest.mark.parametrize("name", [n for n in OF_STATISTICS if n != "diagnose"])
def test_layers_of_another_shape(name):
    """The layer is named, and both shapes."""
    wide = jax.tree.map(lambda leaf: ones(3), (STATS, MOMENTS))
    calls = {
        "merge statistics": lambda: tools.merge_batch_stats([STATS, wide[0]]),
        "merge moments": lambda: tools.merge_batch_moments([MOMENTS, wide[1]]),
    }
    call = calls.get(name, lambda: OF_STATISTICS[name](STATS, wide[1]))
    with refused("mean of layers/0", "(2,)", "(3,)"):
        call()
