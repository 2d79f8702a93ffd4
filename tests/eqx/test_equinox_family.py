"""What holds for every module of `jaxnorm.equinox`: it is the Linen module, there."""

import copy
import inspect
import pickle

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.drawing import place
from support.nnx_modules import (
    SETTINGS,
    TABLE,
    WIDTH,
    WITH_MORE,
    draw_variables,
    program,
)
from support.refusals import refused

import jaxnorm.equinox
from jaxnorm.equinox.module import BatchModule

NAMES = jaxnorm.equinox.__all__
every_module = pytest.mark.parametrize("name", NAMES)
TRAINED = [n for n in NAMES if issubclass(getattr(jaxnorm.equinox, n), BatchModule)]
# Wrappers of weights, a cell, and what needs a reference batch, are not there.
ABSENT = {
    "BatchNormLSTMCell",
    "SpectralNorm",
    "VirtualBatchNorm",
    "WeightNorm",
    "WeightStandardization",
}


def test_the_family_is_complete():
    assert set(NAMES) | ABSENT == set(TABLE)


@every_module
def test_type_checkers_see_the_inherited_constructor(name):
    source = inspect.getsource(getattr(jaxnorm.equinox, name))
    assert "init=False" in source.partition("\n")[0]


def build(name, **options):
    """A module in training mode, with the settings of the Linen table, and state."""
    cls = getattr(jaxnorm.equinox, name)
    own = {"momentum": 0.5} if name in TRAINED else {}
    features = () if name == "UnitNorm" else (WIDTH,)
    options = own | SETTINGS.get(name, {}) | options
    return eqx.nn.make_with_state(cls)(*features, **options)


def load(name, module, state, variables):
    """Gives a module the variables of its Linen counterpart, all of them."""
    params = variables.get("params", {})
    assert params.keys() == {k for k, v in module.params.items() if v is not None}
    module = eqx.tree_at(
        lambda module: [module.params[k] for k in params],
        module,
        list(params.values()),
    )
    if name in TRAINED:
        stats = state.get(module.stats)._replace(**variables["batch_stats"])
        assert variables["batch_stats"].keys() == stats._asdict().keys()
        state = state.set(module.stats, stats)
    return module, state


def call(name, module, state, x, mask):
    """y, the statistics by name, and the state."""
    mask = {"mask": mask} if TABLE[name].masked else {}
    if name in TRAINED:
        y, state = module(x, *TABLE[name].beside(x), state, **mask)
        return y, state.get(module.stats)._asdict(), state
    y = module(x, *TABLE[name].beside(x), **mask)
    return (y[0] if name in WITH_MORE else y), {}, state


@every_module
def test_the_program_is_that_of_linen(name):
    """In training, with the statistics, and in inference, which leaves them."""
    entry = TABLE[name]
    x = place(np.random.default_rng(0).normal(1, 2, (4, 5, WIDTH)))
    mask = jax.device_put(np.arange(4).reshape(4, 1, 1) < 3)
    variables = draw_variables(name, x)

    def own(variables, x, mask):
        module, state = load(name, *build(name), variables)
        inferred, kept, _ = call(name, eqx.nn.inference_mode(module), state, x, mask)
        y, stats, _ = call(name, module, state, x, mask)
        return inferred, kept, y, stats

    def linen(variables, x, mask):
        mask = mask if entry.masked else None
        inferred = entry.apply(entry.build(False), variables, x, mask, train=False)
        y, updates = entry.apply(
            entry.build(True), variables, x, mask, mutable=["batch_stats"]
        )
        before, after = ({} | v.get("batch_stats", {}) for v in (variables, updates))
        return inferred, before, y, after

    assert program(own, variables, x, mask) == program(linen, variables, x, mask)


@every_module
def test_equal_modules_have_equal_structures(name):
    """So that nothing is traced again, and one can be saved into another."""
    (first, state), (second, _) = build(name), build(name)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    leaves = jax.tree.leaves(eqx.filter((first, state), eqx.is_array))
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)


@every_module
def test_it_can_be_pickled_and_copied(name):
    module = build(name)
    for other in (pickle.loads(pickle.dumps(module)), copy.deepcopy(module)):
        assert bool(eqx.tree_equal(other, module))


def test_in_a_model_that_is_trained_saved_and_restored(tmp_path):
    """In `equinox.nn.Sequential`, under `filter_jit` and `filter_value_and_grad`."""

    def make(key):
        return eqx.nn.Sequential(
            [
                eqx.nn.Lambda(lambda x: 3 * x),
                jaxnorm.equinox.BatchNorm(2, momentum=0.0),
                jaxnorm.equinox.LayerNorm(2),
            ]
        )

    model, state = eqx.nn.make_with_state(make)(jax.random.key(0))
    x = jnp.array([[1.0, 10.0], [3.0, 20.0], [2.0, 60.0]])

    @eqx.filter_jit
    @eqx.filter_value_and_grad(has_aux=True)
    def loss(model, state, x):
        y, state = model(x, state)
        return jnp.sum(y[:, 0] * x[:, 1]), state

    (_, state), gradients = loss(model, state, x)
    assert np.any(np.asarray(gradients.layers[1].params["scale"]))
    stats = state.get(model.layers[1].stats)
    np.testing.assert_allclose(stats.mean, 3 * x.mean(0), rtol=1e-6)
    eqx.tree_serialise_leaves(tmp_path / "model", (model, state))
    empty = eqx.nn.make_with_state(make)(jax.random.key(1))
    restored, state = eqx.tree_deserialise_leaves(tmp_path / "model", empty)
    stats = state.get(restored.layers[1].stats)
    np.testing.assert_allclose(stats.mean, 3 * x.mean(0), rtol=1e-6)


def test_over_a_mapped_axis_it_takes_single_examples():
    """As `equinox.nn.BatchNorm` does, and with a mask, which it has not."""
    norm, state = eqx.nn.make_with_state(jaxnorm.equinox.BatchNorm)(
        2, axis_name="batch", momentum=0.0
    )
    x = jnp.array([[1.0, 10.0], [3.0, 30.0], [jnp.nan, 0.0]])
    mask = jnp.array([True, True, False])

    def one(x, mask, state):
        return norm(x, state, mask=mask)

    mapped = jax.vmap(one, axis_name="batch", in_axes=(0, 0, None), out_axes=(0, None))
    y, state = mapped(x, mask, state)
    np.testing.assert_allclose(state.get(norm.stats).mean, [2, 20], rtol=1e-6)
    np.testing.assert_allclose(y[:2], [[-1, -1], [1, 1]], rtol=1e-4)


def test_beside_the_batch_norm_of_equinox():
    """The same in training; running averages start elsewhere, and are corrected."""
    x = place(np.random.default_rng(0).normal(3, 2, (64, 8)))
    theirs, state = eqx.nn.make_with_state(eqx.nn.BatchNorm)(8, "batch", mode="batch")
    mapped = jax.vmap(theirs, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    expected, state = mapped(x, state)
    norm, own = eqx.nn.make_with_state(jaxnorm.equinox.BatchNorm)(8)
    y, own = norm(x, own)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    hidden_mean, _ = state.get(theirs.batch_state_index)
    np.testing.assert_allclose(own.get(norm.stats).mean, hidden_mean, rtol=1e-5)


def test_a_schedule_counts_updates():
    momentum = jaxnorm.warmup_momentum()
    norm, state = eqx.nn.make_with_state(jaxnorm.equinox.BatchNorm)(
        1, momentum=momentum
    )
    _, state = norm(jnp.ones((4, 1)), state)
    assert state.get(norm.stats).count == 1


def test_bad_input():
    x = jnp.ones((4, 3))
    norm, state = eqx.nn.make_with_state(jaxnorm.equinox.BatchNorm)(2)
    with refused("num_features=2", "3"):
        norm(x, state)
    with refused("num_features=2", "3"):
        jaxnorm.equinox.LayerNorm(2, use_scale=False, use_bias=False)(x)
    with pytest.raises(TypeError, match="epsilom"):
        jaxnorm.equinox.LayerNorm(2, epsilom=1.0)
    with pytest.raises(TypeError, match="use_running_average"):
        jaxnorm.equinox.BatchNorm(2, use_running_average=True)
    with pytest.raises(TypeError, match="virtual_batch_size"):
        jaxnorm.equinox.GhostBatchNorm(2)
    for cls in (jaxnorm.equinox.BatchNorm, jaxnorm.equinox.RunningNorm):
        norm, state = eqx.nn.make_with_state(cls)(3)
        with refused("inference", "Python bool"):
            norm(x, state, inference=1)


@pytest.mark.usefixtures("as_users_run_it")
def test_a_mask_or_statistics_in_place_of_the_state_are_an_error():
    x = jnp.ones((4, 3))
    norm, state = eqx.nn.make_with_state(jaxnorm.equinox.BatchNorm)(3)
    for wrong in (x > 0, state.get(norm.stats), {}, None):
        with refused("state", type(wrong).__name__, "by keyword"):
            norm(x, wrong)
